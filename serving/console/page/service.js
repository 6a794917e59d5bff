// What the console asks of the service, with the key that somebody gave, and what goes wrong with it.

const KEY = "reaseq-key";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, body) {
  for (;;) {
    const response = await sent(path, body);
    if (response.status === 401) {
      await askForKey();
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    throw new Refused(response.status, told(answer.detail) || `the service answered ${response.status}`);
  }
}

async function sent(path, body) {
  const headers = { "X-API-Key": sessionStorage.getItem(KEY) || "" };
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Refused(0, "the service does not answer: it ended, or the way to it is closed");
  }
}

// FastAPI tells of invalid fields in a list
const told = (detail) =>
  Array.isArray(detail) ? detail.map((of) => `${of.loc.slice(1).join(".")}: ${of.msg}`).join("; ") : detail;

function askForKey() {
  const dialog = document.getElementById("key");
  const field = document.getElementById("key-value");
  if (sessionStorage.getItem(KEY) !== null) document.getElementById("key-why").textContent = "The service does not know that key.";
  field.value = "";
  dialog.returnValue = "";
  return new Promise((resolve, reject) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "go") return reject(new Refused(401, "the service tells nothing without a key"));
      sessionStorage.setItem(KEY, sendable(field.value));
      resolve();
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}

// A header holds no other characters, and no key does.
const sendable = (text) => text.replaceAll(/[^\x20-\x7e]/g, "?");
