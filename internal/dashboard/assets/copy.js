// Shows the buttons that copy a field. Without scripts the field can be copied by
// hand.
for (const button of document.querySelectorAll("button[data-copies]")) {
  const field = document.getElementById(button.dataset.copies);
  const message = document.getElementById(button.dataset.says);
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      message.textContent = "Copied.";
    } catch {
      message.textContent = "Copying is not allowed in this browser. Press Ctrl+C or ⌘C.";
    }
  });
}
