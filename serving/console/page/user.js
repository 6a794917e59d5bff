import { element, formatTime, heading, itemLink, meter, plural, table } from "./elements.js";
import { activeUsers, searchForm } from "./search.js";
import { getJson } from "./service.js";

export async function user(id) {
  if (!id) return [heading("User"), user.form(), ...(await activeUsers())];
  const view = await getJson(`/v1/users/${encodeURIComponent(id)}`);
  const query = new URLSearchParams({ user: view.user_id, time: new Date(view.event_time_ms + 1000).toISOString().slice(0, 19) });
  return [
    heading(`User ${view.user_id}`),
    element("p", { class: "subtitle" }, summary(view)),
    user.form(),
    element("p", {}, element("a", { href: `#/rank?${query}` }, "Rank for this user, just after the last event")),
    element("div", { class: "columns" },
      element("section", {}, element("h2", {}, "Observed behavior"), observed(view)),
      element("section", {}, element("h2", {}, "Inferred behavior"), ...inferred(view))),
  ];
}
user.form = () => searchForm("user", "User");

function summary(view) {
  const retracted = view.retracted_events ? `; ${view.retracted_events} retracted` : "";
  const erased = view.erased_until_ms ? `; erased up to ${formatTime(view.erased_until_ms)}` : "";
  return `${plural(view.events_seen, "event")} seen, the last ${formatTime(view.event_time_ms)}${retracted}${erased}.`;
}

const observed = (view) => table("Newest first", [{ name: "item" }, { name: "type" }, { name: "time" }],
  view.history.map((behavior) => [itemLink(behavior), behavior.type, formatTime(behavior.time_ms)]), "None.");

function inferred(view) {
  const behaviors = table("Most confident first; not in the event log", [{ name: "item" }, { name: "confidence" }],
    view.inferred.map((behavior) => [itemLink(behavior), meter(behavior.confidence, "confidence")]), "None yet.");
  if (!view.inferred_by) return [behaviors];
  const missing = view.events_since_inference;
  const note = missing ? [element("p", { class: "note" }, `Inferred before the latest ${plural(missing, "event")}.`)] : [];
  return [...note, behaviors, element("p", { class: "subtitle" }, `By model ${view.inferred_by}, as of ${formatTime(view.inferred_as_of_ms)}.`)];
}
