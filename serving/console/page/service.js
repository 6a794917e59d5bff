// Calls the ranking service with the API key that the user entered.

const KEY = "reaseq-key";

export class RequestRejected extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: no response
  }
}

export const getJson = (path) => request(path, { method: "GET" });
export const postJson = (path, body) =>
  request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// Asks for a key and retries for as long as the service answers 401.
async function request(path, options) {
  for (;;) {
    const response = await send(path, options);
    if (response.status === 401) {
      await askForKey();
      continue;
    }
    const body = await response.json().catch(() => ({}));
    if (response.ok) return body;
    throw new RequestRejected(response.status, formatDetail(body.detail) || `the service answered ${response.status}`);
  }
}

async function send(path, options) {
  const headers = { ...options.headers, "X-API-Key": sessionStorage.getItem(KEY) || "" };
  try {
    return await fetch(path, { ...options, headers });
  } catch {
    throw new RequestRejected(0, "the service does not answer: it has stopped or cannot be reached");
  }
}

// FastAPI reports invalid fields as a list.
const formatDetail = (detail) =>
  Array.isArray(detail) ? detail.map((error) => `${error.loc.slice(1).join(".")}: ${error.msg}`).join("; ") : detail;

function askForKey() {
  const dialog = document.getElementById("key");
  const field = document.getElementById("key-value");
  if (sessionStorage.getItem(KEY) !== null) document.getElementById("key-hint").textContent = "The service rejected that key.";
  field.value = "";
  dialog.returnValue = "";
  return new Promise((resolve, reject) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "submit") return reject(new RequestRejected(401, "the service requires an API key"));
      sessionStorage.setItem(KEY, toHeaderValue(field.value));
      resolve();
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

// Headers allow printable ASCII only; any other character makes the key wrong anyway.
const toHeaderValue = (text) => text.replaceAll(/[^\x20-\x7e]/g, "?");
