#!/usr/bin/env node
// A complete outpost in one file of JavaScript, without dependencies.
//
// It speaks the protocol of docs/reference/protocol.md on its standard input and output, and runs
// workers on this machine. In outposts.yaml:
//
//     outposts:
//       - name: node
//         type: exec
//         command: [node, /path/to/outpost.js]
//         capabilities: [rig, local_rig, checkpoint, secrets, interactive, clean]
//
// What is hard about a worker (one clone and one agent per order, checkpoints, delivery, a process
// tree that ends as a whole) is done by Outpost's own far side, a Python module that this program
// calls: `python3 -m outpost_worker publish|list|stop|clean`. Where that is not wanted,
// only the functions under "workers" have to be written anew.

"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const MAX_FRAME = 1 << 20; // longest line either side sends here, in bytes with its line end
const INFLIGHT = 8; // requests that are worked on at once
const ROOT = process.env.OUTPOST_STATE_DIR || path.join(process.cwd(), "state");
const PYTHON = process.env.OUTPOST_PYTHON || "python3";

// --- errors: a kind from the protocol's table, a message, and what to do next ---------------------

class Trouble extends Error {
  constructor(kind, message, hint = "", sent = true) {
    super(message);
    this.told = { kind, message, hint, ...(kind === "unreachable" && { sent }) };
  }
}

// --- lines: one JSON object each ------------------------------------------------------------------

let greeted = false;
let running = 0;
let ended = false; // the other side has gone: finish, then go too
let waiting = Buffer.alloc(0); // the beginning of a line whose end has not come
const queue = []; // lines that wait for a place among those INFLIGHT
const givingUp = new Map(); // id of a request that can be broken off → how

function send(frame) {
  const line = JSON.stringify(frame) + "\n";
  // pipes are written synchronously by Node: a slow reader slows us down, and nothing piles up
  process.stdout.write(line);
}

function breakOff(message) {
  send({ outpost: 1, error: { kind: "usage", message } });
  process.exit(2);
}

process.stdin.on("data", (chunk) => {
  const end = chunk.indexOf(10);
  if (end < 0) {
    waiting = Buffer.concat([waiting, chunk]);
  } else {
    let start = 0;
    for (let at = end; at >= 0; at = chunk.indexOf(10, start)) {
      const line = Buffer.concat([waiting, chunk.subarray(start, at)]);
      waiting = Buffer.alloc(0);
      start = at + 1;
      take(line);
    }
    waiting = chunk.subarray(start);
  }
  if (waiting.length >= MAX_FRAME) breakOff("a line is too long");
});

process.stdin.on("end", () => {
  ended = true;
  for (const giveUp of givingUp.values()) giveUp();
  goWhenDone();
});

process.stdout.on("error", () => process.exit(1));

function goWhenDone() {
  if (ended && running === 0) process.exit(0); // workers keep running
}

function take(line) {
  if (line.length >= MAX_FRAME) breakOff("a line is too long");
  if (line.length === 0) return;
  let frame;
  try {
    frame = JSON.parse(line.toString("utf8"));
  } catch {
    breakOff("a line is not JSON");
  }
  if (frame === null || typeof frame !== "object" || Array.isArray(frame)) {
    breakOff("a line is no JSON object");
  }
  if (!greeted) return hello(frame);
  if ("cancel" in frame) {
    givingUp.get(frame.cancel)?.();
    return;
  }
  if (!Number.isInteger(frame.id) || typeof frame.method !== "string") {
    breakOff("a request lacks its id or its method");
  }
  if (frame.method === "bye") {
    send({ id: frame.id, result: null });
    process.stdin.pause();
    ended = true;
    return goWhenDone();
  }
  queue.push(frame);
  work();
}

function hello(frame) {
  if (frame.outpost !== 1) {
    const message = "this program speaks version 1 of the protocol";
    send({ outpost: 1, error: { kind: "unsupported", message } });
    process.exit(2);
  }
  greeted = true;
  send({
    outpost: 1,
    hello: {
      nonce: frame.hello.nonce,
      server: `outpost.js on node ${process.version}`,
      capabilities: ["rig", "local_rig", "checkpoint", "secrets", "interactive", "clean"],
      methods: [...Object.keys(methods), "bye"],
      inflight: INFLIGHT,
      max_frame: MAX_FRAME,
      time: Date.now() / 1000,
    },
  });
}

function work() {
  while (queue.length > 0 && running < INFLIGHT) {
    running += 1;
    answer(queue.shift()).finally(() => {
      running -= 1;
      work();
      goWhenDone();
    });
  }
  // back-pressure: whoever asks for more than we can do at once is not listened to
  if (queue.length > 0) process.stdin.pause();
  else if (!ended) process.stdin.resume();
}

async function answer({ id, method, params = {} }) {
  let frame;
  try {
    if (!Object.hasOwn(methods, method)) {
      throw new Trouble("unsupported", `there is no method ${JSON.stringify(method)}`);
    }
    frame = { id, result: (await methods[method](params, id)) ?? null };
  } catch (error) {
    frame = { id, error: error.told ?? { kind: "internal", message: String(error) } };
  }
  givingUp.delete(id);
  if (!ended || method !== "logs") send(frame);
}

// --- the methods ----------------------------------------------------------------------------------

const methods = {
  // Create or adopt: `publish` makes the worker's folder, or finds the very same order there.
  async spawn(params) {
    const { code, out, err } = await worker(["publish", ROOT], JSON.stringify(params));
    if (code === null) throw new Trouble("unreachable", "the helper was killed");
    let made;
    try {
      made = JSON.parse(out);
    } catch {
      throw new Trouble("unreachable", `the helper failed: ${err.slice(-500)}`, `see ${PYTHON}`);
    }
    if (made.error) throw Object.assign(new Error(), { told: made.error });
    // Not begun: it is new, or whoever made it was killed before it came to this line. The first
    // supervisor claims the attempt for ever, so one too many does no harm.
    if (!made.begun) start(made.command);
    return made.status;
  },

  // Every worker, in the order of their names, in pages that fit a line.
  async list({ after = null, limit = Infinity }) {
    const workers = [];
    let room = MAX_FRAME - 1024;
    let next = null;
    for (const status of [...(await look()).values()].sort((a, b) => (a.id < b.id ? -1 : 1))) {
      if (after !== null && status.id <= after) continue;
      room -= Buffer.byteLength(JSON.stringify(status)) + 1;
      if (workers.length > 0 && (room < 0 || workers.length >= limit)) {
        next = workers.at(-1).id;
        break;
      }
      workers.push(status);
    }
    return { workers, next };
  },

  ping() {
    return { ok: true, detail: `node ${process.version}` };
  },

  // A long poll: answers as soon as there is something, or after `wait` seconds.
  async logs({ worker: name, offset, max = 1 << 19, wait = 0 }, id) {
    const folder = known(name);
    const most = Math.min(Math.max(max, 1), ((MAX_FRAME - 1024) / 4) * 3);
    const until = Date.now() + Math.min(wait, 60) * 1000;
    let givenUp = false;
    givingUp.set(id, () => (givenUp = true));
    for (let pause = 4; ; pause = Math.min(pause * 1.3, 250)) {
      let data = readFrom(path.join(folder, "output.log"), offset, most);
      if (data.length === 0) {
        const over = !((await look()).get(name)?.result === null);
        // what was written before its end is read for certain once that was seen
        data = readFrom(path.join(folder, "output.log"), offset, most);
        if (data.length === 0 && over) return { data: "", end: true };
      }
      if (data.length > 0) return { data: data.toString("base64"), end: false };
      if (Date.now() >= until) return { data: "", end: false };
      if (givenUp) throw new Trouble("cancelled", "it was cancelled");
      await new Promise((go) => setTimeout(go, pause));
    }
  },

  async stop({ worker: name, grace }) {
    if (!isWorker(name)) return; // stopping what is not there is fine
    await done(await worker(["stop", folderOf(name), "--grace", String(grace)]));
    await look(); // a worker whose supervisor is gone comes to its end by this
  },

  async clean({ worker: name, force = false }) {
    if (!isWorker(name)) return { removed: true };
    const out = await done(await worker(["clean", folderOf(name), ...(force ? ["--force"] : [])]));
    return JSON.parse(out);
  },
};

// --- workers: a folder each, as outpost_worker keeps them ------------------------------------

const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}\.[1-9][0-9]{0,5}$/;
// What lives on when this program has ended gets no more of its environment than it needs, since
// others can read that as long as it lives.
const NEEDED =
  /^(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|PYTHONPATH|OUTPOST_(FAULT|GIT_.*))$/;

function folderOf(name) {
  return path.join(ROOT, "workers", name);
}

function isWorker(name) {
  // an id of that shape cannot leave the folder; `..` in it is only two dots within a name
  return ID.test(name) && fs.existsSync(path.join(folderOf(name), "order.json"));
}

function known(name) {
  if (isWorker(name)) return folderOf(name);
  throw new Trouble("not_found", `there is no worker ${JSON.stringify(name).slice(0, 120)}`);
}

// An agent can write what it likes where its worker is kept: a link, a pipe that nobody writes to.
function readFrom(file, offset, most) {
  let fd;
  try {
    const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants;
    fd = fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch {
    return Buffer.alloc(0); // it has not printed anything
  }
  try {
    if (!fs.fstatSync(fd).isFile()) return Buffer.alloc(0);
    const data = Buffer.allocUnsafe(Math.min(most, Math.max(fs.fstatSync(fd).size - offset, 0)));
    return data.subarray(0, data.length && fs.readSync(fd, data, 0, data.length, offset));
  } finally {
    fs.closeSync(fd);
  }
}

// What is true of a worker is in its folder, and in whether its supervisor lives. The far side knows
// what of that can be believed, and recovers what a dead supervisor left; those who ask while it
// looks wait for its next look.
let looking = null;
let next = null;

function look() {
  if (looking === null) {
    looking = lookAtAll().finally(() => (looking = null));
    return looking;
  }
  next ??= looking.catch(() => {}).then(() => ((next = null), look()));
  return next;
}

async function lookAtAll() {
  const statuses = JSON.parse(await done(await worker(["list", ROOT])));
  return new Map(statuses.map((status) => [status.id, status]));
}

// Starts what outlives this program: in a session of its own, holding none of our pipes.
function start([program, ...args]) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => NEEDED.test(name)));
  const child = spawn(program, args, { detached: true, stdio: "ignore", env });
  child.on("error", () => {}); // the next spawn or list tries again
  child.unref();
}

// Runs a verb of the far side to its end. Secrets are in its input, never among its arguments.
function worker(args, input = "") {
  const { OUTPOST_FAULT, ...env } = process.env; // a crash that tests ask for is a worker's
  return new Promise((resolve) => {
    const child = spawn(PYTHON, ["-m", "outpost_worker", ...args], { env });
    const out = [];
    const err = [];
    child.stdout.on("data", (chunk) => out.push(chunk));
    child.stderr.on("data", (chunk) => err.push(chunk));
    child.stdin.on("error", () => {});
    child.on("error", (error) => resolve({ code: 127, out: "", err: String(error) }));
    child.on("close", (code) =>
      resolve({ code, out: Buffer.concat(out).toString(), err: Buffer.concat(err).toString() }),
    );
    child.stdin.end(input);
  });
}

function done({ code, out, err }) {
  if (code === 0) return out;
  throw new Trouble(code === null ? "unreachable" : "internal", err.slice(-500) || "it was killed");
}
