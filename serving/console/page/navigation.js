// Goes to an address. If it is the current one, its page is loaded again.
export function navigate(hash) {
  if (location.hash === hash) dispatchEvent(new Event("hashchange"));
  else location.hash = hash;
}
