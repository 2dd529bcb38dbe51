// The line to the server: it comes back by itself, and what the page knows comes back with it.
//
//   const line = new Line({hello, state, engine, log, meters, columns, open, error});
//   line.set("bus/vox/gain_db", -6);        a control; many in one frame of the screen become one message
//   await line.do([["add/bus", "a=mix"]]);  resolves when it is done, rejects with the server's one line
//   line.watch({meters: true, points: true, bus: "vox"});

const METERS = 1, COLUMNS = 2;
const AGAIN_MS = [200, 500, 1000, 2000];
const REFUSED = 4401;

export class Line {
  constructor(handlers, path = "socket") {
    this.handlers = handlers;
    this.path = path;
    this.values = {};  // the state, flat
    this.tries = 0;
    this.number = 0;
    this.waiting = new Map();
    this.pending = new Map();
    this.wish = null;
    this.token = location.hash.slice(1) || sessionStorage.getItem("token") || "";
    if (this.token) sessionStorage.setItem("token", this.token);
    this.connect();
  }

  connect() {
    const address = new URL(this.path, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    address.hash = "";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.token && this.socket.send(JSON.stringify({token: this.token}));
    this.socket.onmessage = (event) => this.hear(event.data);
    this.socket.onclose = (event) => this.lost(event);
  }

  get open() {
    return this.ready === true && this.socket.readyState === WebSocket.OPEN;
  }

  hear(data) {
    if (typeof data !== "string") return this.hearBytes(data);
    const message = JSON.parse(data);
    if (message.hello) {
      this.ready = true;
      this.tries = 0;
      this.values = {};
      this.call("hello", message.hello);
      this.call("open", true);
      if (this.wish) this.socket.send(JSON.stringify({watch: this.wish}));
    }
    if (message.state && this.ready) {
      for (const name of message.gone) delete this.values[name];
      Object.assign(this.values, message.state);
      this.call("state", this.values, message.state, message.gone);
    }
    if (message.engine) this.call("engine", message.engine);
    if (message.log) this.call("log", message.log);
    const {id, ok, error, hello, state, gone, engine, log, ...rest} = message;
    if (Object.keys(rest).length) this.call("other", rest);
    if (id !== undefined && this.waiting.has(id)) {
      const {resolve, reject} = this.waiting.get(id);
      this.waiting.delete(id);
      error ? reject(new Error(error)) : resolve();
    } else if (error) {
      this.call("error", error);
    }
  }

  hearBytes(data) {
    const head = new DataView(data), kind = head.getUint8(0);
    if (kind === METERS) {
      const [inputs, buses, outputs] = [1, 2, 3].map((at) => head.getUint8(at));
      const levels = new Float32Array(data, 4);
      this.call("meters", {
        inputs: levels.subarray(0, inputs),
        buses: levels.subarray(inputs, inputs + buses),
        outputs: levels.subarray(inputs + buses, inputs + buses + outputs),
      });
    } else if (kind === COLUMNS) {
      const masked = head.getUint8(1) === 1, hops = head.getUint16(2, true), bins = head.getUint16(4, true);
      const first = head.getUint32(8, true);
      const columns = [];
      for (let hop = 0, at = 12; hop < hops; hop++, at += 6 * bins) {
        columns.push({
          number: first + hop,
          bins,
          masked,
          x: new Int16Array(data, at, bins),  // of 1/32767
          y: new Int16Array(data, at + 2 * bins, bins),
          level: new Uint8Array(data, at + 4 * bins, bins),
          mask: new Uint8Array(data, at + 5 * bins, bins),
        });
      }
      this.call("columns", columns);
    }
  }

  lost(event) {
    const refused = event.code === REFUSED;
    if (refused) sessionStorage.removeItem("token");
    this.ready = false;
    for (const {reject} of this.waiting.values()) reject(new Error("the connection was lost"));
    this.waiting.clear();
    this.call("open", false, refused ? event.reason : "");
    if (refused) return;
    setTimeout(() => this.connect(), AGAIN_MS[Math.min(this.tries++, AGAIN_MS.length - 1)]);
  }

  call(name, ...values) {
    this.handlers[name]?.(...values);
  }

  // A control that a hand moves: the newest value of each, once a frame.
  set(name, value) {
    this.values[name] = value;
    if (!this.pending.size) requestAnimationFrame(() => this.flush());
    this.pending.set(name, value);
  }

  flush() {
    if (this.pending.size && this.open) this.do([...this.pending]).catch((error) => this.call("error", error.message));
    this.pending.clear();
  }

  do(steps) {
    if (!this.open) return Promise.reject(new Error("not connected"));
    const id = ++this.number;
    this.socket.send(JSON.stringify({do: steps, id}));
    return new Promise((resolve, reject) => this.waiting.set(id, {resolve, reject}));
  }

  // The same for a step that nobody waits for: what cannot be is shown.
  act(...steps) {
    this.flush();
    return this.do(steps).then(() => true, (error) => (this.call("error", error.message), false));
  }

  watch(wish) {
    this.wish = wish;
    if (this.open) this.socket.send(JSON.stringify({watch: wish}));
  }
}
