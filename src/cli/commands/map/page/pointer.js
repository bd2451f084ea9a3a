// --- Pointer, keyboard and search ---------------------------------------------------------------------------------

const tip = document.getElementById("tip");
let current = null;
function hide() {
  if (current) current.subnet.cursor.hidden = true;
  tip.hidden = true;
  current = null;
}
function show(subnet, n) {
  if (current && current.subnet === subnet && current.n === n) return;
  if (current) current.subnet.cursor.hidden = true;
  current = { subnet, n };
  const [x, y] = place(subnet, n);
  const { cursor, cell } = subnet;
  cursor.style.transform = `translate(${x - 2}px, ${y - 2}px)`;
  cursor.style.width = cursor.style.height = cell + 3 + "px";
  cursor.hidden = false;
  tip.replaceChildren();
  const one = subnet.taken[n];
  const kind = byLetter.get(subnet.squares[n]);
  element("b", tip, address(subnet.first + n));
  element("div", tip, kind.means);
  const block = blockOf(subnet, n);
  if (block) element("div", tip, `in the block ${block.net}`);
  if (one && one.holder !== null) element("div", tip, holder(subnet, n, kind, one.holder));
  const eni = eniOf(one);
  if (eni) element("code", element("div", tip), plain(eni.eni));
  if (eni && eni.instance !== null) element("code", element("div", tip), plain(eni.instance) + (eni.here ? " (this host)" : ""));
  if (one && one.seconds !== null) element("div", tip, `for ${duration(one.seconds)}, since ${clock(map.time - one.seconds)}`);
  tip.hidden = false;
  const box = subnet.grid.getBoundingClientRect();
  const [left, top] = [box.left + x + cell + 10, box.top + y + cell + 10];
  const isLow = top + tip.offsetHeight > innerHeight;
  tip.style.transform = `translate(${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 8))}px, ` +
    `${isLow ? Math.max(4, top - tip.offsetHeight - cell - 20) : top}px)`;
}
function holder(subnet, n, kind, name) {
  const last = n === subnet.squares.length - 1 ? "the last address" : undefined;
  if (kind.name === "aws" && name === "AWS") return "AWS: " + (AWS_USES[n] || last || "of its own");
  if (kind.name === "reserved") return "for " + plain(name);
  return (kind.name.startsWith("idle") ? "last had by " : "") + plain(name);
}
function listen(subnet) {
  const { grid } = subnet;
  const point = (event) => {
    const box = grid.getBoundingClientRect();
    const n = at(subnet, event.clientX - box.left, event.clientY - box.top);
    if (n === null) hide();
    else show(subnet, n);
  };
  grid.addEventListener("pointermove", point);
  grid.addEventListener("pointerdown", point);
  grid.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  grid.addEventListener("blur", hide);
  grid.addEventListener("keydown", (event) => {
    const line = subnet.columns * LINE;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -line, ArrowDown: line, PageUp: -8 * line, PageDown: 8 * line,
      Home: -Infinity, End: Infinity };
    if (event.key === "Escape") hide();
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const from = current && current.subnet === subnet ? current.n : 0;
    go(subnet, Math.max(0, Math.min(subnet.squares.length - 1, current ? from + steps[event.key] : from)));
  });
}
function go(subnet, n) {
  show(subnet, n);
  subnet.cursor.scrollIntoView({ block: "nearest" });
  current = null; // where it is in the window has changed
  show(subnet, n);
}

const search = document.getElementById("search");
let matches = [];
let next = 0;
// Digits and dots are an address or the beginning of some, with a slash a block; all else is part of a name. A whole address is
// itself alone, and not each whose holder's name begins like it.
function range(text) {
  const parts = /^(\d{1,3}(?:\.\d{1,3}){0,3})\.?(?:\/(\d{1,2}))?$/.exec(text);
  if (!parts) return null;
  const octets = parts[1].split(".");
  if (octets.some((octet) => octet > 255) || parts[2] > 32) return null;
  const bits = parts[2] === undefined ? octets.length * 8 : Number(parts[2]);
  const size = 2 ** (32 - bits);
  const first = number([...octets, 0, 0, 0].slice(0, 4).join("."));
  return [first - (first % size), first - (first % size) + size];
}
function find() {
  const text = search.value.trim().toLowerCase();
  const within = range(text);
  const isWhole = within !== null && (text.includes("/") || within[1] - within[0] === 1);
  const isIn = (name) => isWhole ? name === text : name.includes(text);
  [matches, next] = [[], 0];
  for (const subnet of text ? subnets : []) {
    for (let n = 0; n < subnet.squares.length; n += 1) {
      const one = subnet.taken[n];
      const eni = eniOf(one);
      const names = one ? [one.holder, eni && eni.eni, eni && eni.instance] : [];
      const inRange = within && subnet.first + n >= within[0] && subnet.first + n < within[1];
      if (inRange || names.some((name) => name && isIn(name.toLowerCase()))) matches.push({ subnet, n });
    }
  }
  const found = new Set(matches.map(({ subnet, n }) => subnet.first + n));
  pin(text ? (subnet, n) => found.has(subnet.first + n) : null, null);
  const enter = matches.length ? "; Enter goes from one to the next" : "";
  document.getElementById("found").textContent = text ? `${matches.length.toLocaleString()} found${enter}` : "";
}
search.addEventListener("input", find);
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
  if (event.key !== "Enter" || !matches.length) return;
  const { subnet, n } = matches[next % matches.length];
  next += 1;
  go(subnet, n);
});

layOutAll();
subnets.forEach((subnet) => sight.observe(subnet.grid));
if (!subnets.length) element("p", document.getElementById("subnets"), "The table has no subnet yet.", "card");
new ResizeObserver(() => laidOut !== document.getElementById("subnets").clientWidth && layOutAll())
  .observe(document.getElementById("subnets"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => subnets.filter((s) => s.visible).forEach(draw));
addEventListener("scroll", () => current && document.activeElement !== current.subnet.grid &&
  document.activeElement !== search && hide(), { capture: true, passive: true });
