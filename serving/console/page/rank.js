import { signedBar } from "./bars.js";
import { element, formatDay, formatMinute, formatTime, heading, link, plural, table, time } from "./elements.js";
import { navigate } from "./navigation.js";
import { getJson, postJson, RequestRejected } from "./service.js";

const SHOWN_BEHAVIORS = 6;
const FALLBACK_LEVELS = {
  fresh: "by the model, on features read for this request",
  last_known: "by the model, on the user's last known features",
  semantic: "without the model, by similarity to the history",
  popularity: "without the model, by popularity",
};
const REASONS = {
  store_unavailable: "the feature store does not answer",
  budget_spent: "no time was left for the model",
  unknown_user: "the user has no features: ranked by context",
  unknown_candidates: "some candidates are not in the item table",
  latent_state_of_another_model: "the user's latent state is from a model that is not loaded",
};
const PARAMETERS = ["user", "items", "time", "budget", "limit"];

export async function rank(_, query) {
  const parameters = Object.fromEntries(PARAMETERS.map((name) => [name, query.get(name) || ""]));
  const form = rank.form(parameters);
  if (!parameters.user) return [heading("Ranking"), form, element("p", { class: "empty" }, "Enter a user to see what the service would show, and why.")];
  const response = await postJson("/v1/explain", buildRequest(parameters));
  const titles = await readTitles(response);
  return [heading(`Ranking for ${parameters.user}`), form, summary(response), ...degraded(response), ranking(response, titles)];
}

function buildRequest({ user, items, time, budget, limit }) {
  const request = { user_id: user, candidate_ids: items.split(/[\s,]+/).filter(Boolean), limit: Number(limit) || 5 };
  if (time) request.time_ms = parseTime(time);
  if (budget) request.budget_ms = Number(budget);
  return request;
}

function parseTime(text) {
  const ms = Date.parse(`${text}Z`);
  if (Number.isNaN(ms)) throw new RequestRejected(422, `"${text}" is not a valid time`);
  return ms;
}

// Titles are optional: without them, the page shows ids.
async function readTitles(response) {
  const behaviors = response.explanations.flatMap((explanation) => explanation.behaviors.slice(0, SHOWN_BEHAVIORS));
  const ids = [...new Set([...response.ranked, ...behaviors].map((entry) => entry.item_id))];
  return getJson(`/v1/titles?${new URLSearchParams(ids.map((id) => ["item_id", id]))}`).catch(() => ({}));
}

rank.form = (parameters) => {
  const { user = "", items = "", time = "", budget = "", limit = "" } = parameters;
  const form = element("form", {},
    field("user", "User", { required: true, maxlength: 128, size: 18, value: user }),
    field("time", "Time (UTC)", { type: "datetime-local", step: 1, value: time }, "empty: now"),
    field("budget", "Budget (ms)", { type: "number", min: 0.001, step: "any", value: budget, size: 8 }, "empty: the service's default"),
    field("limit", "Limit", { type: "number", min: 1, max: 20, value: limit || 5, size: 4 }),
    element("div", { class: "wide" },
      element("label", { for: "items" }, "Candidates ", element("span", { class: "hint" }, "item ids; empty: the most popular items on sale")),
      element("textarea", { id: "items", name: "items", spellcheck: "false" }, items)),
    element("button", {}, "Rank"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const entries = [...new FormData(form)].map(([name, value]) => [name, value.trim()]);
    navigate(`#/rank?${new URLSearchParams(entries.filter(([, value]) => value))}`);
  });
  return form;
};

function field(name, label, attributes, hint) {
  return element("div", {},
    element("label", { for: name }, `${label} `, hint && element("span", { class: "hint" }, hint)),
    element("input", { id: name, name, autocomplete: "off", ...attributes }));
}

function summary(response) {
  const model = response.model ? ` (ranker ${response.model})` : "";
  const newest = response.features_time_ms ? `; newest behavior ${formatTime(response.features_time_ms)}` : "";
  return element("p", {},
    `${plural(response.candidates, "candidate")} at ${formatTime(response.time_ms)} in ${response.took_ms.toFixed(1)} ms, `,
    element("strong", {}, FALLBACK_LEVELS[response.fallback_level]), `${model}${newest}.`);
}

function degraded(response) {
  if (!response.degraded.length) return [];
  const reasons = response.degraded.map((reason) => element("li", {}, `${REASONS[reason]} (${reason})`));
  return [element("div", { class: "note" }, element("p", {}, `Fallback level ${response.fallback_level}; reasons:`), element("ul", {}, reasons))];
}

function ranking(response, titles) {
  const explanations = new Map(response.explanations.map((explanation) => [explanation.item_id, explanation]));
  const largest = largestContribution(response.explanations);
  const entries = response.ranked.map((ranked, index) => {
    const explanation = explanations.get(ranked.item_id);
    return element("li", {},
      element("h2", {}, `${index + 1}. `, titledLink(ranked.item_id, titles)),
      element("p", { class: "subtitle" }, `Item ${ranked.item_id}, ${formatScore(ranked.score, explanation)}.`),
      explanation ? explained(explanation, titles, largest, `candidate ${index + 1}`) : null);
  });
  return element("ol", { class: "ranked" }, entries);
}

// Without the model, a score is not a probability and only orders the candidates.
const formatScore = (score, explanation) => (explanation ? `probability ${(100 * score).toFixed(2)} %` : `score ${score.toPrecision(3)}, not a probability`);

// One scale for all bars of the page, so that candidates can be compared.
function largestContribution(explanations) {
  const contributions = explanations.flatMap(({ groups, behaviors }) => [...Object.values(groups), ...behaviors.map((behavior) => behavior.log_odds)]);
  return Math.max(0, ...contributions.map(Math.abs));
}

function explained(explanation, titles, largest, candidate) {
  const groups = Object.entries(explanation.groups).map(([name, logOdds]) => [name, signedBar(logOdds, largest), formatSigned(logOdds)]);
  const behaviors = explanation.behaviors.slice(0, SHOWN_BEHAVIORS).map((behavior) => [
    [titledLink(behavior.item_id, titles), " ", element("span", { class: "hint" }, whenObserved(behavior))],
    signedBar(behavior.log_odds, largest), formatSigned(behavior.log_odds),
  ]);
  const columns = (name) => [{ name }, { name: "lowers or raises", kind: "bar" }, { name: "log-odds", kind: "number" }];
  return element("div", { class: "columns" },
    table("Log-odds lost if all features of a kind are removed", columns("kind"), groups, "", `Kinds of features, ${candidate}`),
    table("Log-odds lost if one behavior is removed; times in UTC", columns("behavior"), behaviors, "No behavior is known.", `Behaviors, ${candidate}`));
}

const whenObserved = (behavior) => (behavior.time_ms === null ? `inferred, confidence ${behavior.confidence.toFixed(2)}` : time(behavior.time_ms, `${formatDay(behavior.time_ms)} ${formatMinute(behavior.time_ms)}`));
const titledLink = (itemId, titles) => link("item", itemId, titles[itemId]);
const formatSigned = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);
