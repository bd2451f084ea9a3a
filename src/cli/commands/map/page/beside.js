"use strict";
// Names come from outside. They are only ever set as text, never as HTML.
const { kinds, map } = JSON.parse(document.getElementById("data").textContent);
const byLetter = new Map(kinds.map((kind) => [kind.letter, kind]));
const AWS_USES = ["the network", "the VPC router", "DNS", "kept for future use"];
const LINE = 16; // addresses of a /28
const GONE = 210; // seconds: a host looks at the table three times within them

const element = (tag, parent, text, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  parent.append(made);
  return made;
};
// Control characters, and what turns the direction of writing around, are written out.
const plain = (text) =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (odd) => "\\u{" + odd.charCodeAt(0).toString(16) + "}");
const number = (ip) => ip.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
const address = (n) => [24, 16, 8, 0].map((bits) => Math.floor(n / 2 ** bits) % 256).join(".");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name);
const duration = (seconds) => {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = units.find(([size]) => seconds >= size) || units[3];
  return Math.floor(seconds / size) + " " + unit;
};
// As `history` prints it, whoever looks at it wherever.
const clock = (seconds) => new Date(seconds * 1000).toISOString().replace(/\.\d+/, "");

const subnets = map.subnets.map((drawn) => {
  const taken = new Array(drawn.squares.length);
  const first = number(drawn.cidr.split("/")[0]);
  for (const one of drawn.taken) taken[number(one.ip) - first] = one;
  // Blocks of interfaces, by where they begin.
  const held = new Map(drawn.blocks.held.map((block) => [number(block.net.split("/")[0]) - first, block]));
  return { ...drawn, first, taken, held };
});
const blockOf = (subnet, n) => subnet.held.get(n - (n % LINE));
const eniOf = (one) => (one && one.eni !== null ? map.enis[one.eni] : null);

// --- What stands beside the pictures -------------------------------------------------------------------------------

document.getElementById("when").textContent =
  "as of " + clock(map.time) + (map.instance ? ", seen from " + plain(map.instance) : "");
// What is highlighted: what was clicked stays until it is clicked again, what the pointer is on goes with it.
let pinned = null;
let pinnedBy = null;
const highlightedBy = (button, wanted) => {
  button.type = "button";
  button.ariaPressed = "false";
  button.addEventListener("pointerenter", () => highlight(wanted));
  button.addEventListener("pointerleave", () => highlight(pinned));
  button.addEventListener("click", () => {
    const again = pinnedBy === button;
    pin(again ? null : wanted, again ? null : button);
  });
};
const pin = (wanted, button) => {
  if (pinnedBy) pinnedBy.ariaPressed = "false";
  [pinned, pinnedBy] = [wanted, button];
  if (button) button.ariaPressed = "true";
  highlight(pinned);
};

const counted = (name) => subnets.reduce((sum, subnet) => sum + (subnet.counts[name] || 0), 0);
for (const kind of kinds.filter((kind) => counted(kind.name) > 0)) {
  const button = element("button", document.getElementById("legend"));
  const swatch = element("span", button, kind.letter, "swatch");
  swatch.style.background = `var(--${kind.name})`;
  swatch.style.color = `var(--${kind.name}-ink)`;
  element("span", button, kind.means);
  element("span", button, counted(kind.name).toLocaleString(), "dim");
  highlightedBy(button, (subnet, n) => subnet.squares[n] === kind.letter);
}

const held = subnets.reduce((sum, subnet) => sum + subnet.held.size, 0);
if (held > 0) {
  const button = element("button", document.getElementById("legend"));
  element("span", button, "", "swatch block");
  element("span", button, "block of an interface");
  element("span", button, held.toLocaleString(), "dim");
  highlightedBy(button, (subnet, n) => blockOf(subnet, n) !== undefined);
}

// By instance: its ENIs, each with how many addresses it has. ENIs of which nobody knows the instance come last.
const hosts = new Map(map.hosts.map((host) => [host.instance, { ...host, enis: [] }]));
map.enis.forEach((eni, index) => {
  if (!hosts.has(eni.instance)) hosts.set(eni.instance, { instance: eni.instance, enis: [] });
  hosts.get(eni.instance).enis.push({ ...eni, index, lease: 0, idle: 0, other: 0, blocks: 0 });
});
const eniAt = new Map([...hosts.values()].flatMap((host) => host.enis).map((eni) => [eni.index, eni]));
for (const subnet of subnets) {
  subnet.taken.forEach((one, n) => {
    if (one.eni === null) return;
    const name = byLetter.get(subnet.squares[n]).name;
    eniAt.get(one.eni)[name.startsWith("lease") ? "lease" : name.startsWith("idle") ? "idle" : "other"] += 1;
  });
  for (const block of subnet.held.values()) if (block.eni !== null) eniAt.get(block.eni).blocks += 1;
}
const size = (host) => host.enis.reduce((sum, eni) => sum + eni.lease + eni.idle + eni.other, 0);
const rank = (host) => (host.instance === null ? -1 : host.instance === map.instance ? Infinity : size(host));
// The table forgets no host: those that are gone and have no address any more are left out.
const shown = [...hosts.values()].filter((host) => size(host) > 0 || host.seen_seconds <= GONE);
document.getElementById("count").textContent = shown.filter((host) => host.instance !== null).length.toLocaleString();
for (const host of shown.sort((a, b) => rank(b) - rank(a))) {
  const button = element("button", document.getElementById("hosts"));
  const title = element("div", button);
  element("b", title, host.instance === null ? "Other interfaces" : plain(host.instance));
  if (host.instance !== null && host.instance === map.instance) element("span", title, "this host", "here");
  if (host.version !== undefined) {
    const late = host.seen_seconds > GONE;
    const seen = (late ? "not seen for " : "seen ") + duration(host.seen_seconds) + (late ? "" : " before");
    element("div", button, plain(host.version) + ", " + seen, late ? "gone" : "dim");
  } else if (host.instance !== null) {
    element("div", button, "has no driver of its own", "dim");
  }
  for (const eni of host.enis) {
    const line = element("div", button);
    element("code", line, plain(eni.eni));
    const blocks = eni.blocks ? `, ${eni.blocks.toLocaleString()} blocks` : "";
    element("div", line, `${eni.lease.toLocaleString()} lease, ${eni.idle.toLocaleString()} idle, ${eni.other.toLocaleString()} other${blocks}`, "dim");
  }
  const enis = new Set(host.enis.map((eni) => eni.index));
  highlightedBy(button, (subnet, n) => subnet.taken[n] !== undefined && enis.has(subnet.taken[n].eni));
}

