/* What the visitor can do: actions by key, button and gamepad; holding streams, a tap gives one frame. */

const TAP = 150; // ms; a key held for longer streams
const KEYS = {
  up: ["ArrowUp", "KeyW"],
  down: ["ArrowDown", "KeyS"],
  left: ["ArrowLeft", "KeyA"],
  right: ["ArrowRight", "KeyD"],
  stay: ["Space"],
};
const OTHERS = [..."1234567890"].map((digit) => `Digit${digit}`).concat([..."QERTYFGHZXCVB"].map((key) => `Key${key}`));
// A role goes to the first name that fits its first pattern; those of the second get it where the first finds none.
const ROLES = {
  up: [/^(move_?)?(forwards?|ahead)$/, /^((move|look|go)_?)?(up|north)$/],
  down: [/^(move_?)?(back|backwards?|reverse)$/, /^((move|look|go)_?)?(down|south)$/],
  left: [/^(turn|rotate)_?left$/, /^((move|look|go|strafe|step)_?)?(left|west)$/],
  right: [/^(turn|rotate)_?right$/, /^((move|look|go|strafe|step)_?)?(right|east)$/],
  stay: [/^(no_?op|stay|none|idle|wait|nothing|stand|stop)$/],
};
const SYMBOLS = { up: "↑", down: "↓", left: "←", right: "→", stay: "•" };
const CAPS = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Space: "space", Escape: "esc" };

/** "KeyW" -> "W": what stands on the key of most keyboards. */
export function capOf(code) {
  return CAPS[code] ?? code.replace(/^(Key|Digit)/, "").replace(/^Numpad/, "num ");
}

/** One command per action, per direction of each number of a vector, or one alone: the next frame. */
export function commandsOf(world, values) {
  if (world.kind === "id") {
    const commands = world.actions.map(({ id, name }) => ({ name, value: () => id }));
    giveRoles(commands);
    return commands;
  }
  if (world.kind === "vector") {
    const pairs = [["left", "right"], ["down", "up"]];
    const push = (index, to) => () => values.map((value, other) => (other === index ? to : value));
    const both = world.vector.flatMap((name, index) => [
      { name: `${name} −`, role: pairs[index]?.[0], value: push(index, world.ranges[index][0]) },
      { name: `${name} +`, role: pairs[index]?.[1], value: push(index, world.ranges[index][1]) },
    ]);
    return [...both, { name: "as set below", role: "stay", value: () => [...values] }];
  }
  return [{ name: "next frame", role: "stay", value: () => null, keys: ["Space", "ArrowRight"] }];
}

function giveRoles(commands) {
  const plain = (command) => command.name.toLowerCase().replace(/[\s-]+/g, "_");
  for (const [role, patterns] of Object.entries(ROLES)) {
    const [first, ...others] = patterns.flatMap((pattern) => commands.filter((command) => pattern.test(plain(command))));
    if (first) first.role = role;
    // A world that turns and steps aside: the arrows turn, A and D step.
    if (others[0] && (role === "left" || role === "right")) {
      first.keys = KEYS[role].slice(0, 1);
      others[0].keys = KEYS[role].slice(1);
    }
  }
}

function usualKeys(commands) {
  const numbered = ({ name }) => (/^\d$/.test(name) ? [`Digit${name}`] : undefined);
  const spare = OTHERS.filter((code) => !commands.some((command) => numbered(command)?.includes(code)));
  return commands.map((command) => command.keys ?? KEYS[command.role] ?? numbered(command) ?? spare.splice(0, 1));
}

export class Controls {
  /** `send(message)` goes to the server; `ready()` says whether keys belong to the world just now. */
  constructor({ world, pad, sliders, reset, send, ready }) {
    // Nobody acts: 0, or what is nearest to it.
    this.values = (world.ranges ?? []).map(([low, high]) => Math.min(Math.max(0, low), high));
    this.commands = commandsOf(world, this.values);
    Object.assign(this, { pad, reset, send, ready });
    this.store = `nextframe keys ${this.commands.map((command) => command.name)}`;
    this.keys = this.#remembered() ?? usualKeys(this.commands);
    this.held = []; // { source, command }, the newest last: it is the one that counts
    this.streaming = null;
    this.capturing = null; // { index, place } of the key cap that waits for a key
    this.#showSliders(world, sliders);
    this.#showPad();
    reset.onclick = () => this.#setKeys(usualKeys(this.commands));
    addEventListener("keydown", (event) => this.#keyDown(event));
    addEventListener("keyup", (event) => this.release(event.code));
    addEventListener("blur", () => this.releaseAll());
    for (const type of ["pointerdown", "focusin"])
      addEventListener(type, (event) => event.target.closest?.(".cap.waiting") || this.#stopCapturing(), true);
    document.addEventListener("visibilitychange", () => document.hidden && this.releaseAll());
    addEventListener("gamepadconnected", () => this.#watchGamepad(), { once: true });
  }

  // ---- pressing

  press(command, source, at = performance.now()) {
    if (!command || this.held.some((one) => one.source === source)) return;
    this.held.push({ source, command });
    this.#light();
    clearTimeout(this.timer);
    if (this.streaming) return this.#stream(command, at);
    this.send({ type: "act", action: command.value(), at });
    this.timer = setTimeout(() => this.#stream(command, performance.now()), TAP);
  }

  release(source) {
    const place = this.held.findIndex((one) => one.source === source);
    if (place < 0) return;
    const wasNewest = place === this.held.length - 1;
    this.held.splice(place, 1);
    this.#light();
    if (!wasNewest) return;
    clearTimeout(this.timer);
    const before = this.held.at(-1)?.command;
    if (before || this.streaming) this.#stream(before ?? null, performance.now());
  }

  releaseAll() {
    this.#stopCapturing();
    clearTimeout(this.timer);
    this.held = [];
    this.#stream(null, performance.now());
    this.#light();
  }

  #stream(command, at) {
    const was = this.streaming;
    this.streaming = command && { action: command.value() };
    if (was) this.send({ type: "hold", action: was.action, on: false, at });
    if (command) this.send({ type: "hold", action: this.streaming.action, on: true, at });
  }

  #light() {
    this.commands.forEach((command, index) => {
      const held = this.held.some((one) => one.command === command);
      this.pad.children[index].firstChild.classList.toggle("pressed", held);
    });
  }

  // ---- keys

  #keyDown(event) {
    if (this.capturing) return this.#capture(event);
    if (!this.ready() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea")) return;
    // Somebody who walks through the page with Tab presses its buttons with Space.
    if (event.code === "Space" && event.target.matches("button:focus-visible, a:focus-visible")) return;
    const index = this.keys.findIndex((codes) => codes.includes(event.code));
    if (index < 0) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!event.repeat) this.press(this.commands[index], event.code, event.timeStamp);
  }

  #capture(event) {
    const { index, place } = this.capturing;
    const { code } = event;
    if (code === "Tab") return this.#stopCapturing(); // it goes on through the page
    event.preventDefault();
    event.stopImmediatePropagation();
    if (/^(Shift|Control|Alt|Meta|CapsLock|F\d)/.test(code)) return; // no key of its own
    if (code === "Escape") return this.#stopCapturing();
    const focused = document.activeElement === this.pad.querySelector(".cap.waiting"); // who came by keyboard stays there
    this.#stopCapturing();
    const keys = this.keys.map((codes) => codes.filter((one) => one !== code));
    const codes = this.keys[index].with(place, code);
    keys[index] = codes.filter((one, other) => one !== code || other === place);
    this.#setKeys(keys);
    if (focused) this.pad.children[index].querySelectorAll(".cap")[place]?.focus();
  }

  #stopCapturing() {
    if (!this.capturing) return;
    const code = this.keys[this.capturing.index][this.capturing.place];
    this.capturing = null;
    Object.assign(this.pad.querySelector(".cap.waiting"), { className: "cap", textContent: code ? capOf(code) : "+" });
  }

  #setKeys(keys) {
    this.keys = keys;
    try {
      localStorage.setItem(this.store, JSON.stringify(keys));
    } catch {} // a browser that keeps nothing: they hold until the page is closed
    this.#showPad();
  }

  #remembered() {
    try {
      const keys = JSON.parse(localStorage.getItem(this.store));
      return keys?.length === this.commands.length ? keys : null;
    } catch {
      return null;
    }
  }

  // ---- what is on screen

  #showPad() {
    this.pad.replaceChildren(...this.commands.map((command, index) => this.#keyOf(command, index)));
    this.reset.hidden = JSON.stringify(this.keys) === JSON.stringify(usualKeys(this.commands));
    this.#light();
  }

  #keyOf(command, index) {
    const cell = document.createElement("div");
    cell.className = `key ${command.role ?? "other"}`;
    const act = document.createElement("button");
    act.className = "act";
    const name = command.name.replaceAll("_", " ");
    act.innerHTML = `<i aria-hidden="true">${SYMBOLS[command.role] ?? ""}</i><span></span>`;
    act.lastChild.textContent = name;
    const source = `button ${index}`;
    act.onpointerdown = (event) => {
      if (event.button) return;
      act.setPointerCapture(event.pointerId); // a thumb that slides off still lets go here
      this.press(command, source, event.timeStamp);
    };
    act.onpointerup = act.onpointercancel = act.onlostpointercapture = () => this.release(source);
    act.oncontextmenu = (event) => event.preventDefault();
    act.onclick = (event) => {
      if (event.detail || !this.ready()) return; // by keyboard or screen reader alone
      this.press(command, source);
      this.release(source);
    };
    const caps = document.createElement("div");
    caps.className = "caps";
    const codes = this.keys[index].length ? this.keys[index] : [null];
    caps.append(...codes.map((code, place) => this.#cap(code, name, index, place)));
    cell.append(act, caps);
    return cell;
  }

  #cap(code, name, index, place) {
    const cap = document.createElement("button");
    cap.className = "cap";
    cap.textContent = code ? capOf(code) : "+";
    cap.title = `Another key for ${name}`;
    cap.setAttribute("aria-label", `${code ? capOf(code) : "no key"}: choose another key for ${name}`);
    cap.onclick = () => {
      this.#stopCapturing();
      this.capturing = { index, place };
      Object.assign(cap, { className: "cap waiting", textContent: "press a key" });
    };
    return cap;
  }

  #showSliders({ vector = [], ranges }, sliders) {
    vector.forEach((name, index) => {
      const label = document.createElement("label");
      const [min, max] = ranges[index];
      const slider = Object.assign(document.createElement("input"), { type: "range", min, max, step: "any" });
      const output = document.createElement("output");
      const shown = () => Number(this.values[index].toPrecision(3));
      slider.value = this.values[index];
      output.value = shown();
      slider.oninput = () => {
        this.values[index] = Number(slider.value);
        output.value = shown();
      };
      slider.onchange = () => slider.blur();
      label.append(name, slider, output);
      sliders.append(label);
    });
  }

  // ---- gamepad

  #watchGamepad() {
    const pad = navigator.getGamepads().find((one) => one);
    const [x = 0, y = 0] = pad?.axes ?? [];
    const on = (button) => pad?.buttons[button]?.pressed;
    const roles = { up: on(12) || y < -0.5, down: on(13) || y > 0.5, left: on(14) || x < -0.5, right: on(15) || x > 0.5 };
    for (const [role, down] of Object.entries({ ...roles, stay: on(0) })) {
      if (!down) this.release(`gamepad ${role}`);
      else if (this.ready()) this.press(this.commands.find((command) => command.role === role), `gamepad ${role}`);
    }
    requestAnimationFrame(() => this.#watchGamepad());
  }
}
