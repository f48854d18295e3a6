// The state of the page in the address, so that a view can be shared and found again.

const PREFIX = "p.lightning_adapt.";

/** The window whose address people see: TensorBoard's, when the page is a frame in it. */
function addressed() {
  try {
    if (window.parent !== window && window.parent.location.origin === window.location.origin) {
      return window.parent;
    }
  } catch {
    // A frame in a page of somewhere else.
  }
  return window;
}

const entries = () => addressed().location.hash.slice(1).split("&").filter(Boolean);

/** Key to text of everything the address says about this page. */
export function read() {
  const state = {};
  for (const entry of entries()) {
    const [key, value = ""] = entry.split("=");
    if (!key.startsWith(PREFIX)) continue;
    try {
      state[key.slice(PREFIX.length)] = decodeURIComponent(value);
    } catch {
      // Cut off by whoever copied it.
    }
  }
  return state;
}

/** Write key to text into the address; `push` makes it a step that the Back button undoes. */
export function write(state, push) {
  const others = entries().filter((entry) => !entry.startsWith(PREFIX));
  const own = Object.entries(state).map(([key, value]) => `${PREFIX}${key}=${encoded(value)}`);
  const hash = `#${[...others, ...own].join("&")}`;
  const { history, location } = addressed();
  if (hash === location.hash) return;
  if (push) history.pushState(history.state, "", hash);
  else history.replaceState(history.state, "", hash);
}

/** Whether the page is on view: TensorBoard's address begins with the tab that is, and keeps our frame behind it. */
export function onView() {
  const [shown = ""] = entries();
  return addressed() === window || shown === "" || shown.includes("=") || shown === "lightning_adapt";
}

/** Call `listener` when somebody else changes the address. */
export function listen(listener) {
  addressed().addEventListener("hashchange", listener);
  addressed().addEventListener("popstate", listener);
}

// A lone half of a surrogate pair cannot be part of an address.
const encoded = (value) => encodeURIComponent(value.replace(/\p{Surrogate}/gu, "\ufffd"));
