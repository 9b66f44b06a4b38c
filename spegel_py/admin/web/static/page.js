// Keeps the page up to date while somebody looks: one stream, whose parts are put in the place of the old ones without
// moving the focus, the selection or what was opened. The page is whole without this.
"use strict";

(() => {
  const state = document.getElementById("live");
  const pause = document.getElementById("pause");
  let stream = null;
  let isPaused = false;

  // Texts that change are read out: each is said once.
  const say = (text) => {
    if (state.textContent !== text) state.textContent = text;
  };

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.dataset.key || node.id || "" : "");

  const isSame = (one, other) =>
    one.nodeType === other.nodeType && one.nodeName === other.nodeName && keyOf(one) === keyOf(other);

  function morphAttributes(into, from) {
    for (const { name, value } of from.attributes) {
      if (into.getAttribute(name) !== value) into.setAttribute(name, value);
    }
    for (const { name } of [...into.attributes]) {
      if (!from.hasAttribute(name) && !(name === "open" && into.nodeName === "DETAILS")) into.removeAttribute(name);
    }
  }

  function morph(into, from) {
    if (into.nodeType !== Node.ELEMENT_NODE) {
      if (into.nodeValue !== from.nodeValue) into.nodeValue = from.nodeValue;
      return;
    }
    morphAttributes(into, from);
    morphChildren(into, from);
  }

  function morphChildren(into, from) {
    const keyed = new Map();
    for (const child of into.childNodes) {
      if (keyOf(child)) keyed.set(keyOf(child), child);
    }
    let next = into.firstChild;
    for (const wanted of [...from.childNodes]) {
      const known = keyOf(wanted) ? keyed.get(keyOf(wanted)) : next;
      if (known && isSame(known, wanted)) {
        if (known !== next) into.insertBefore(known, next);
        next = known.nextSibling;
        morph(known, wanted);
      } else {
        into.insertBefore(wanted, next);
      }
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  }

  function replace({ name, html }) {
    const part = document.getElementById(`part-${name}`);
    if (!part) return;
    const wanted = document.createElement("template");
    wanted.innerHTML = html;
    const focused = document.activeElement;
    morphChildren(part, wanted.content);
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  }

  function listen() {
    if (stream || isPaused || document.hidden) return;
    stream = new EventSource("events");
    stream.addEventListener("open", () => say("live"));
    stream.addEventListener("part", (event) => replace(JSON.parse(event.data)));
    stream.addEventListener("error", () => {
      if (stream && stream.readyState === EventSource.CLOSED) {
        say("not live: too many look, or the node is another; reload");
        stop();
      } else {
        say("the node does not answer; trying again");
      }
    });
  }

  function stop() {
    if (stream) stream.close();
    stream = null;
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    if (isPaused) {
      stop();
      say("paused");
    } else {
      listen();
    }
  });
  // who does not look costs the node nothing
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", listen);
  listen();
})();
