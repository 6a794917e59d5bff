import { element, formatMinute, formatNumber, heading, plural, table } from "./elements.js";
import { lineChart, LOG_SECONDS } from "./line_chart.js";
import { getJson } from "./service.js";

const REFRESH_MS = 3000;

export async function stream() {
  const content = element("div", {}, SECTIONS.map(() => element("section")));
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
    const [health, hour] = await Promise.all([getJson("/v1/stream"), getJson("/v1/stream/history")]);
    SECTIONS.forEach(({ data, build }, index) => update(content.children[index], JSON.stringify(data({ health, hour })), () => build({ health, hour })));
  } catch (error) {
    if (!(error.status >= 0)) throw error;
    message = `${error.message}.`;
  }
  if (problem.textContent !== message) problem.replaceChildren(...(message ? [element("p", { class: "alert" }, message)] : []));
}

const shown = new WeakMap(); // the data that each section shows

function update(section, data, build) {
  if (shown.get(section) === data) return;
  section.replaceChildren(...build());
  shown.set(section, data);
}

function asOf({ health }) {
  return [element("p", { class: "subtitle" }, `As of ${new Date(health.observed_ms).toISOString().slice(0, 19).replace("T", " ")} UTC.`)];
}

function summary({ health: { topics, dead_letters: deadLetters, workers } }) {
  const lag = topics.reduce((sum, topic) => sum + topic.lag, 0);
  const dead = deadLetters.reduce((sum, group) => sum + group.count, 0);
  const ready = workers.filter((worker) => !worker.problem).length;
  return [element("p", {},
    state(ready === workers.length, `${ready} of ${workers.length} workers ready`), ", ",
    state(!lag, `${plural(lag, "record")} behind`), ", ", state(!dead, plural(dead, "dead letter")))];
}

function charts({ hour }) {
  const timesMs = hour.times_ms, every = `${hour.interval_s} s`;
  if (!timesMs.length) return [element("h2", {}, "Last hour"), element("p", { class: "empty" }, `The first sample follows within ${every}.`)];
  return [
    element("h2", {}, "Last hour"),
    element("p", { class: "hint" }, `One sample every ${every} since ${formatMinute(timesMs[0])} UTC. Where a line is missing, the brokers did not answer, or there was nothing to measure.`),
    element("div", { class: "charts" },
      lineChart({ title: "Rate", hint: "records acknowledged per second, by topic", timesMs, series: hour.acknowledged_per_s, placeholder: "The second sample gives the first rate." }),
      lineChart({ title: "Lag", hint: "records not acknowledged yet, by topic", timesMs, series: hour.lag, placeholder: "The brokers have not answered yet." }),
      lineChart({ title: "Freshness", hint: "from produced to servable, 99th percentile, by stage", timesMs, series: hour.freshness_p99_s, scale: LOG_SECONDS, placeholder: "Nothing has become servable since." }),
      lineChart({ title: "Dead letters", hint: "open, by stage", timesMs, series: hour.dead_letters, placeholder: "None." })),
  ];
}

const topics = ({ health }) => [element("h2", {}, "Topics"), table("Each topic and the consumer group that reads it",
  [{ name: "topic" }, { name: "consumer group" }, { name: "records", kind: "number" }, { name: "lag", kind: "number" }, { name: "acknowledged per second", kind: "number" }],
  health.topics.map((topic) => [topic.name, topic.group, formatNumber(topic.records), formatNumber(topic.lag), formatNumber(topic.acknowledged_per_s)]),
  "There are no topics.")];

const freshnessAndDeadLetters = ({ health }) => [element("div", { class: "columns" },
  element("div", {}, element("h2", {}, "Freshness"), freshness(health)),
  element("div", {}, element("h2", {}, "Dead letters"), deadLetters(health)))];

const freshness = (health) => table("Time from produced to servable (upper bounds, since the workers started)",
  [{ name: "stage" }, { name: "median", kind: "number" }, { name: "99th percentile", kind: "number" }],
  health.freshness.map((stage) => [stage.stage, formatBound(stage.p50_s), formatBound(stage.p99_s)]), "No worker has reported yet.");

const deadLetters = (health) => table("Records that could not be processed",
  [{ name: "stage" }, { name: "reason" }, { name: "count", kind: "number" }],
  health.dead_letters.map((group) => [group.stage, group.reason, formatNumber(group.count)]), "None.");

const workers = ({ health }) => [element("h2", {}, "Workers"), table("Readiness of each worker", [{ name: "address" }, { name: "state" }],
  health.workers.map((worker) => [worker.address, state(!worker.problem, worker.problem || "ready")]),
  "No worker addresses: set REASEQ_SERVICE__WORKER_URLS.")];

const formatBound = (seconds) => (seconds === null ? "over an hour" : `${seconds} s`);
const state = (good, text) => element("span", { class: good ? "good" : "bad" }, text);

// A section whose data have not changed stays as it is: a reader's focus, selection and scroll position are in it.
const SECTIONS = [
  { data: ({ health }) => health.observed_ms, build: asOf },
  { data: ({ health }) => [health.topics, health.dead_letters, health.workers], build: summary },
  { data: ({ hour }) => hour, build: charts },
  { data: ({ health }) => health.topics, build: topics },
  { data: ({ health }) => [health.freshness, health.dead_letters], build: freshnessAndDeadLetters },
  { data: ({ health }) => health.workers, build: workers },
];
