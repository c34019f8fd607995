// @ts-check
// Lists the employees of a connection. Needs Node.js 18 or newer.
// Usage: node employees.mjs CONNECTION [PROXY_URL]

/**
 * @typedef {{ id: string, firstName: string, lastName: string, email: string }} Employee
 * @typedef {{ data: Employee[], pagination: { hasNextPage: boolean, endCursor?: string } }} Page
 * @typedef {{ code: string, message: string, connection?: string, connect_url?: string }} Problem
 */

const [connection, proxy = "http://127.0.0.1:8484"] = process.argv.slice(2);

/** An error of the proxy. Pleo's own errors have another form. */
class ProxyError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.message);
    this.problem = problem;
  }
}

/** @returns {AsyncGenerator<Employee>} */
async function* employees() {
  const url = new URL(proxy + "/v2/employees?limit=10");
  for (;;) {
    const response = await fetch(url, { headers: { "Pleo-Connection": connection } });
    if (response.headers.get("Content-Type") === "application/problem+json") {
      throw new ProxyError(await response.json());
    }
    if (!response.ok) {
      throw new Error(`status ${response.status}: ${await response.text()}`);
    }
    /** @type {Page} */
    const page = await response.json();
    yield* page.data;
    if (!page.pagination.hasNextPage || !page.pagination.endCursor) return;
    url.searchParams.set("after", page.pagination.endCursor);
  }
}

try {
  for await (const employee of employees()) {
    console.log(`${employee.firstName} ${employee.lastName} <${employee.email}>`);
  }
} catch (error) {
  if (!(error instanceof ProxyError) || error.problem.code !== "reauthorization_required") throw error;
  const { connection, connect_url, message } = error.problem;
  console.error(`${connection} must be connected again: ${connect_url ?? message}`);
  process.exitCode = 2;
}
