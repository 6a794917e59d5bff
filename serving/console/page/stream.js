import { element, formatNumber, heading, plural, table } from "./elements.js";
import { getJson } from "./service.js";

const REFRESH_MS = 3000;

export async function stream() {
  const content = element("div");
  const pause = element("button", { type: "button", "aria-pressed": "false" }, "Pause");
  const problem = element("div", { role: "alert" });
  pause.addEventListener("click", () => pause.setAttribute("aria-pressed", String(pause.getAttribute("aria-pressed") === "false")));
  await refresh(content, problem);
  scheduleRefresh(content, pause, problem);
  return [heading("Stream"), element("p", {}, pause, element("span", { class: "hint" }, " Refreshes every few seconds.")), problem, content];
}

async function scheduleRefresh(content, pause, problem) {
  await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
  if (!content.isConnected) return; // the user has left the page
  if (pause.getAttribute("aria-pressed") === "false") await refresh(content, problem);
  scheduleRefresh(content, pause, problem);
}

// Keeps the last content beside an error. An unchanged error is not inserted again, so that screen readers announce it once.
async function refresh(content, problem) {
  let message = "";
  try {
    content.replaceChildren(...health(await getJson("/v1/stream")));
  } catch (error) {
    if (!(error.status >= 0)) throw error;
    message = `${error.message}.`;
  }
  if (problem.textContent !== message) problem.replaceChildren(...(message ? [element("p", { class: "alert" }, message)] : []));
}

function health(stream) {
  return [
    element("p", { class: "subtitle" }, `As of ${new Date(stream.observed_ms).toISOString().slice(0, 19).replace("T", " ")} UTC.`),
    summary(stream),
    topics(stream),
    element("div", { class: "columns" },
      element("section", {}, element("h2", {}, "Freshness"), freshness(stream)),
      element("section", {}, element("h2", {}, "Dead letters"), deadLetters(stream))),
    element("h2", {}, "Workers"),
    workers(stream),
  ];
}

function summary({ topics, dead_letters: deadLetters, workers }) {
  const lag = topics.reduce((sum, topic) => sum + topic.lag, 0);
  const dead = deadLetters.reduce((sum, group) => sum + group.count, 0);
  const ready = workers.filter((worker) => !worker.problem).length;
  return element("p", {},
    state(ready === workers.length, `${ready} of ${workers.length} workers ready`), ", ",
    state(!lag, `${plural(lag, "record")} behind`), ", ", state(!dead, plural(dead, "dead letter")));
}

const topics = (stream) => table("Topics",
  [{ name: "topic" }, { name: "consumer group" }, { name: "records", number: true }, { name: "lag", number: true }, { name: "acknowledged per second", number: true }],
  stream.topics.map((topic) => [topic.name, topic.group, formatNumber(topic.records), formatNumber(topic.lag), formatNumber(topic.acknowledged_per_s)]),
  "There are no topics.");

const freshness = (stream) => table("Time from produced to servable (upper bounds, since the workers started)",
  [{ name: "stage" }, { name: "median", number: true }, { name: "99th percentile", number: true }],
  stream.freshness.map((stage) => [stage.stage, formatBound(stage.p50_s), formatBound(stage.p99_s)]), "No worker has reported yet.");

const deadLetters = (stream) => table("Records that could not be processed",
  [{ name: "stage" }, { name: "reason" }, { name: "dead letters", number: true }],
  stream.dead_letters.map((group) => [group.stage, group.reason, formatNumber(group.count)]), "None.");

const workers = (stream) => table("Readiness of each worker", [{ name: "address" }, { name: "state" }],
  stream.workers.map((worker) => [worker.address, state(!worker.problem, worker.problem || "ready")]),
  "No worker addresses: set REASEQ_SERVICE__WORKER_URLS.");

const formatBound = (seconds) => (seconds === null ? "over an hour" : `${seconds} s`);
const state = (good, text) => element("span", { class: good ? "good" : "bad" }, text);
