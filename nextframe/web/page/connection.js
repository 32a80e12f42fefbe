/* The server: requests, and one socket that is opened again when it drops. */

const TOKEN = new URLSearchParams(location.search).get("token");
const PULSE = 5000; // ms between questions whether the server is there
const DOUBT = 8000; // ms without an answer before it is said
const PATIENCE = 20000; // ms without an answer before a silent socket counts as dropped

export function address(path) {
  const url = new URL(path, location.href);
  if (TOKEN) url.searchParams.set("token", TOKEN);
  return url;
}

/** The answer of a request, or an Error with the server's own line. */
export async function request(path, options) {
  const answer = await fetch(address(path), options).catch(() => null);
  if (!answer) throw new Error("The server does not answer.");
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `The server says ${answer.status} to ${path}.`);
}

/** Saves what a path answers under the name the server gives it. A plain link would save its errors as well. */
export async function download(path, name) {
  const answer = await request(path);
  const given = /filename="?([^";]+)/.exec(answer.headers.get("Content-Disposition") ?? "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = given ? given[1] : name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** A binary message: the length of a JSON header, the header, RGB bytes. */
function readFrame(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  header.pixels = new Uint8Array(buffer, 4 + length);
  return header;
}

/** Calls `on.frame(header with pixels)`, `on.message(json)`, `on.silent(whether nothing has been heard for a while)`, and
 * `on.dropped(seconds until the next attempt)`. */
export class Connection {
  constructor(on) {
    this.on = on;
    this.socket = null;
    this.session = null;
    this.attempts = 0;
    this.heard = 0;
    this.silent = false;
    setInterval(() => this.#checkPulse(), PULSE);
  }

  get open() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** A fresh socket whose first message is this one; the old one is left. */
  begin(message) {
    this.leave();
    this.#connect(message);
  }

  leave() {
    clearTimeout(this.timer);
    const old = this.socket;
    this.socket = this.session = null;
    this.silent = false;
    old?.close();
  }

  send(message) {
    if (this.open) this.socket.send(JSON.stringify(message));
    return this.open;
  }

  #connect(first) {
    const url = address("/play");
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.heard = performance.now();
      socket.send(JSON.stringify(first));
    };
    socket.onmessage = ({ data }) => socket === this.socket && this.#receive(data);
    socket.onclose = ({ code }) => socket === this.socket && this.#closed(code, first);
  }

  #receive(data) {
    this.heard = performance.now();
    if (this.silent) this.#tellSilent(false);
    if (typeof data !== "string") return this.on.frame(readFrame(data));
    const message = JSON.parse(data);
    if (message.type === "ready") {
      this.session = message.session;
      this.attempts = 0;
    }
    this.on.message(message);
  }

  #tellSilent(silent) {
    this.silent = silent;
    this.on.silent(silent);
  }

  /** 1008: the server does not want this session, and would not next time. Anything else may pass. */
  #closed(code, first) {
    this.socket = null;
    this.silent = false;
    if (code === 1008 || (!this.session && first.type === "start")) return this.on.dropped(null);
    const seconds = Math.min(8, 0.5 * 2 ** this.attempts++);
    this.on.dropped(seconds);
    const again = { type: "resume", session: this.session ?? first.session };
    this.timer = setTimeout(() => this.#connect(again), 1000 * seconds);
  }

  /** A phone that changes networks leaves a socket that looks open and is dead. */
  #checkPulse() {
    if (!this.open || !this.session) return; // before `ready`, a slow model may be reading its context
    const quiet = performance.now() - this.heard;
    if (quiet > DOUBT && !this.silent) this.#tellSilent(true);
    if (quiet > PATIENCE) {
      const dead = this.socket;
      dead.onclose = null;
      dead.close();
      this.#closed(1006, { type: "resume", session: this.session });
    } else this.send({ type: "ping", at: performance.now() });
  }
}
