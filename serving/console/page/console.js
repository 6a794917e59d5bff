// Which page is shown: the part of the address behind the # says so, so that every look can be linked and gone back to.

import { element, heading } from "./elements.js";
import { item } from "./item.js";
import { models } from "./models.js";
import { rank } from "./rank.js";
import { stream } from "./stream.js";
import { user } from "./user.js";

const PAGES = { stream, item, user, rank, models };
const main = document.getElementById("main");
const said = document.getElementById("said");
let shown = 0;

async function show(moved) {
  const number = ++shown;
  const [path, query] = location.hash.slice(2).split("?");
  const [name, ...rest] = path.split("/");
  const page = PAGES[name] ? name : "stream";
  const parameters = new URLSearchParams(query);
  announce(page);
  let parts;
  try {
    parts = await PAGES[page](decodeURIComponent(rest.join("/")), parameters);
  } catch (error) {
    const title = error.status === 404 ? "Not found" : "That did not work";
    parts = [heading(title), element("p", { class: "alert", role: "alert" }, `${error.message}.`)];
    if (PAGES[page].form) parts.push(PAGES[page].form(Object.fromEntries(parameters)));
    if (!(error.status >= 0)) console.error(error);
  }
  if (number !== shown) return; // somebody has gone elsewhere
  main.replaceChildren(...parts);
  main.removeAttribute("aria-busy");
  said.textContent = parts[0].textContent;
  document.title = `${parts[0].textContent} · ReaSeq console`;
  if (moved) parts[0].focus();
}

function announce(page) {
  for (const anchor of document.querySelectorAll("nav a")) {
    if (anchor.getAttribute("href") === `#/${page}`) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  said.textContent = "Loading";
  main.setAttribute("aria-busy", "true");
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which page is shown
  main.focus();
});
addEventListener("hashchange", () => show(true));
show(false);
