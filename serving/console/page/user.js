import { element, formatTime, heading, plural } from "./elements.js";
import { activeUsers, searchForm } from "./search.js";
import { getJson } from "./service.js";
import { timeline } from "./timeline.js";

export async function user(id) {
  if (!id) return [heading("User"), user.form(), ...(await activeUsers())];
  const view = await getJson(`/v1/users/${encodeURIComponent(id)}`);
  const query = new URLSearchParams({ user: view.user_id, time: new Date(view.event_time_ms + 1000).toISOString().slice(0, 19) });
  return [
    heading(`User ${view.user_id}`),
    element("p", { class: "subtitle" }, summary(view)),
    user.form(),
    element("p", {}, element("a", { href: `#/rank?${query}` }, "Rank for this user, just after the last event")),
    element("h2", {}, "Behavior"),
    ...inference(view),
    ...timeline(view),
  ];
}
user.form = () => searchForm("user", "User");

function summary(view) {
  const retracted = view.retracted_events ? `; ${view.retracted_events} retracted` : "";
  const erased = view.erased_until_ms ? `; erased up to ${formatTime(view.erased_until_ms)}` : "";
  return `${plural(view.events_seen, "event")} seen, the last ${formatTime(view.event_time_ms)}${retracted}${erased}.`;
}

function inference(view) {
  if (!view.inferred_by) return [element("p", { class: "empty" }, "No behavior model has looked at this user yet.")];
  const found = view.inferred.length ? `inferred ${plural(view.inferred.length, "behavior")} that no event records` : "inferred no behavior";
  const missing = view.events_since_inference;
  return [
    element("p", {}, `Model ${view.inferred_by} ${found}, from the events up to ${formatTime(view.inferred_as_of_ms)}.`),
    ...(missing ? [element("p", { class: "note" }, `${plural(missing, "event")} arrived after that.`)] : []),
  ];
}
