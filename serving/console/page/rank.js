import { count, element, heading, link, table, time } from "./elements.js";
import { go } from "./search.js";
import { ask, Refused } from "./service.js";

const SHOWN_BEHAVIORS = 6;
const FALLBACK_LEVELS = {
  fresh: "by the model, on features read just now",
  last_known: "by the model, on the features that were last read of the user",
  semantic: "without the model, by likeness to the history",
  popularity: "without the model, by popularity",
};
const REASONS = {
  store_unavailable: "the feature store does not answer",
  budget_spent: "no time was left for the model",
  unknown_user: "nothing is known of the user: ranked by context",
  unknown_candidates: "some candidates are not known",
  latent_state_of_another_model: "the user's latent state is of a model that is not at hand",
};

export async function rank(_, query) {
  const asked = Object.fromEntries(["user", "items", "time", "budget", "limit"].map((name) => [name, query.get(name) || ""]));
  const form = rank.form(asked);
  if (!asked.user) return [heading("Ranking"), form, element("p", { class: "empty" }, "Name a user to see what the service would show, and why.")];
  const body = { user_id: asked.user, candidate_ids: asked.items.split(/[\s,]+/).filter(Boolean), limit: Number(asked.limit) || 5 };
  if (asked.time) body.time_ms = moment(asked.time);
  if (asked.budget) body.budget_ms = Number(asked.budget);
  const answer = await ask("/v1/explain", body);
  const items = [...answer.ranked, ...answer.explanations.flatMap((of) => of.behaviors.slice(0, SHOWN_BEHAVIORS))];
  const ids = [...new Set(items.map((of) => of.item_id))];
  const titles = await ask(`/v1/titles?${new URLSearchParams(ids.map((id) => ["item_id", id]))}`).catch(() => ({}));
  return [heading(`Ranking for ${asked.user}`), form, summary(answer), degraded(answer), list(answer, titles)].filter(Boolean);
}

function moment(text) {
  const found = Date.parse(`${text}Z`);
  if (Number.isNaN(found)) throw new Refused(422, `"${text}" is no moment`);
  return found;
}

rank.form = (asked) => {
  const told = { user: "", items: "", time: "", budget: "", limit: "", ...asked };
  const form = element("form", {},
    field("user", "User", { required: true, maxlength: 128, size: 18, value: told.user }),
    field("time", "At (UTC)", { type: "datetime-local", step: 1, value: told.time }, "empty: now"),
    field("budget", "Budget (ms)", { type: "number", min: 0.001, step: "any", value: told.budget, size: 8 }, "empty: the service's"),
    field("limit", "Best", { type: "number", min: 1, max: 20, value: told.limit || 5, size: 4 }),
    element("div", { class: "wide" }, element("label", { for: "items" }, "Candidates ", element("span", { class: "hint" }, "item ids; none: the most popular on sale")),
      element("textarea", { id: "items", name: "items", spellcheck: "false" }, told.items)),
    element("button", {}, "Rank"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go(`#/rank?${new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()).map(([name, value]) => [name, value.trim()]))}`);
  });
  return form;
};

function field(name, label, attributes, hint) {
  return element("div", {}, element("label", { for: name }, `${label} `, hint && element("span", { class: "hint" }, hint)), element("input", { id: name, name, autocomplete: "off", ...attributes }));
}

const summary = (answer) => element("p", {}, `${count(answer.candidates)} candidates at ${time(answer.time_ms)} in ${answer.took_ms.toFixed(1)} ms, `,
  element("strong", {}, FALLBACK_LEVELS[answer.fallback_level]), answer.model ? ` (ranker ${answer.model})` : "", answer.features_time_ms ? `; newest behavior ${time(answer.features_time_ms)}.` : ".");

const degraded = (answer) => answer.degraded.length ? element("div", { class: "note" }, element("p", {}, `Fallback level ${answer.fallback_level}, because:`), element("ul", {}, answer.degraded.map((reason) => element("li", {}, `${REASONS[reason]} (${reason})`)))) : null;

function list(answer, titles) {
  const why = new Map(answer.explanations.map((of) => [of.item_id, of]));
  return element("ol", { class: "ranked" }, answer.ranked.map((of, place) => element("li", {},
    element("h2", {}, `${place + 1}. `, link("item", of.item_id, titles[of.item_id] || of.item_id)),
    element("p", { class: "of" }, why.has(of.item_id) ? `Item ${of.item_id}, probability ${(100 * of.score).toFixed(2)} %.` : `Item ${of.item_id}. A score without the model only orders: ${of.score.toPrecision(3)}.`),
    why.has(of.item_id) ? explanation(why.get(of.item_id), titles) : null)));
}

function explanation(of, titles) {
  const groups = Object.entries(of.groups).map(([name, odds]) => `${name} ${signed(odds)}`).join(", ");
  const rows = of.behaviors.slice(0, SHOWN_BEHAVIORS).map((by) => [link("item", by.item_id, titles[by.item_id] || by.item_id), signed(by.log_odds), by.time_ms === null ? `inferred, ${by.confidence.toFixed(2)}` : time(by.time_ms)]);
  return element("details", {}, element("summary", {}, `Log-odds it owes: ${groups}`),
    table("What carried it, each taken away alone", [{ name: "behavior" }, { name: "log-odds", number: true }, { name: "when" }], rows, "No behavior is known."));
}

const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);
