import { count, element, heading, several, table } from "./elements.js";
import { ask } from "./service.js";

const REFRESH_MS = 3000;

export async function stream() {
  const shown = element("div");
  const pause = element("button", { type: "button", "aria-pressed": "false" }, "Pause");
  const trouble = element("div", { role: "alert" });
  pause.addEventListener("click", () => pause.setAttribute("aria-pressed", String(pause.getAttribute("aria-pressed") === "false")));
  await look(shown, trouble);
  refresh(shown, pause, trouble);
  return [heading("Stream"), element("p", {}, pause, element("span", { class: "hint" }, " Looks again every few seconds.")), trouble, shown];
}

async function refresh(shown, pause, trouble) {
  await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  if (!shown.isConnected) return; // somebody has gone elsewhere
  if (pause.getAttribute("aria-pressed") === "false") await look(shown, trouble);
  refresh(shown, pause, trouble);
}

// What was seen last stays beside what went wrong; that is said once.
async function look(shown, trouble) {
  let said = "";
  try {
    shown.replaceChildren(...health(await ask("/v1/stream")));
  } catch (error) {
    if (!(error.status >= 0)) throw error;
    said = `${error.message}.`;
  }
  if (trouble.textContent !== said) trouble.replaceChildren(...(said ? [element("p", { class: "alert" }, said)] : []));
}

function health(seen) {
  const behind = seen.topics.reduce((sum, topic) => sum + topic.lag, 0);
  const letters = seen.dead_letters.reduce((sum, of) => sum + of.letters, 0);
  const troubled = seen.workers.filter((worker) => worker.trouble);
  return [
    element("p", { class: "of" }, `Seen ${new Date(seen.seen_ms).toISOString().slice(0, 19).replace("T", " ")} UTC.`),
    element("p", {},
      state(!troubled.length, `${seen.workers.length - troubled.length} of ${seen.workers.length} workers ready`), ", ",
      state(!behind, `${several(behind, "record")} behind`), ", ", state(!letters, several(letters, "dead letter"))),
    table("Topics", [{ name: "topic" }, { name: "read by" }, { name: "records", number: true }, { name: "behind", number: true }, { name: "acknowledged a second", number: true }],
      seen.topics.map((of) => [of.name, of.group, count(of.held), count(of.lag), count(of.acknowledged_per_s)]), "There are no topics."),
    element("div", { class: "columns" },
      element("section", {}, element("h2", {}, "From produced to servable"),
        table("Upper bounds since the workers started", [{ name: "stage" }, { name: "half within", number: true }, { name: "99 % within", number: true }],
          seen.freshness.map((of) => [of.stage, bound(of.p50_s), bound(of.p99_s)]), "No worker has told yet.")),
      element("section", {}, element("h2", {}, "Dead letters"),
        table("Records that could not be processed", [{ name: "stage" }, { name: "reason" }, { name: "letters", number: true }],
          seen.dead_letters.map((of) => [of.stage, of.reason, count(of.letters)]), "None."))),
    element("h2", {}, "Workers"),
    table("What each says of itself", [{ name: "address" }, { name: "state" }],
      seen.workers.map((of) => [of.address, state(!of.trouble, of.trouble || "ready")]), "No worker's address is set (service.worker_urls)."),
  ];
}

const bound = (seconds) => (seconds === null ? "over an hour" : `${seconds} s`);
const state = (good, text) => element("span", { class: good ? "good" : "bad" }, text);
