// Shows the buttons that copy what stands in a field. Without this script the
// field is there all the same, and is copied by hand.
for (const button of document.querySelectorAll("button[data-copies]")) {
  const field = document.getElementById(button.dataset.copies);
  const said = document.getElementById(button.dataset.says);
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      said.textContent = "Copied.";
    } catch {
      said.textContent = "Your browser does not let pages copy: press Ctrl+C or ⌘C.";
    }
  });
}
