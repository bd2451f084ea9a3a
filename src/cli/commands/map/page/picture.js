// --- The pictures: a canvas each, since 65,536 elements would be slow -------------------------------------------------

for (const subnet of subnets) {
  const card = element("section", document.getElementById("subnets"), undefined, "card");
  const title = element("div", card, undefined, "title");
  element("h2", title, plain(subnet.subnet));
  element("span", title, subnet.cidr, "dim");
  const free = subnet.counts.free || 0;
  const share = Math.floor((100 * free) / subnet.squares.length);
  element("b", title, `${free.toLocaleString()} of ${subnet.squares.length.toLocaleString()} free (${share} %)`);
  if (subnet.outside) element("p", card, `${subnet.outside} of its rows are not in ${subnet.cidr}: they are not drawn`);
  const { whole, broken, full } = subnet.blocks;
  if (subnet.held.size + whole + broken + full > 0) {
    const onInterfaces = subnet.held.size ? `${subnet.held.size.toLocaleString()} on interfaces, ` : "";
    const others = `${whole.toLocaleString()} whole, ${broken.toLocaleString()} broken, ${full.toLocaleString()} full`;
    element("p", card, `/28 blocks: ${onInterfaces}${others}`, "dim");
  }
  const bar = element("div", card, undefined, "bar");
  for (const kind of kinds.filter((kind) => subnet.counts[kind.name])) {
    const part = element("div", bar);
    part.style.flexGrow = subnet.counts[kind.name];
    part.style.background = `var(--${kind.name})`;
  }
  subnet.grid = element("div", card, undefined, "grid");
  subnet.grid.tabIndex = 0;
  subnet.grid.role = "application";
  subnet.grid.ariaLabel = `Addresses of ${subnet.cidr}; arrow keys go from one to the next`;
  [subnet.canvas, subnet.over] = [element("canvas", subnet.grid), element("canvas", subnet.grid)];
  subnet.cursor = element("div", subnet.grid, undefined, "cursor");
  subnet.cursor.hidden = true;
  listen(subnet);
}

// As few /28s beside each other as it takes for the picture to be no higher than the window, by powers of two; but squares
// are no smaller than 8 pixels where the subnet is not a very large one.
const LABELS = 92; // pixels
const TOP = 5;
function layOut(subnet) {
  const strips = subnet.squares.length / LINE;
  const smallest = strips > 512 ? 4 : 8;
  for (let columns = 1; columns <= Math.min(16, strips); columns *= 2) {
    const gap = columns < 8 ? 6 : 4;
    const fitting = Math.min(26, Math.floor(((subnet.grid.clientWidth - LABELS) / columns - gap) / LINE));
    if (columns > 1 && fitting < smallest) break;
    const cell = Math.max(fitting, 4);
    const rows = Math.ceil(strips / columns);
    Object.assign(subnet, { columns, cell, gap, rows, height: rows * (cell + gap) + TOP });
    if (subnet.height <= innerHeight * 0.9) break;
  }
  subnet.grid.style.height = subnet.height + "px";
}
const place = (subnet, n) => {
  const strip = Math.floor(n / LINE);
  const x = (strip % subnet.columns) * (LINE * subnet.cell + subnet.gap) + (n % LINE) * subnet.cell;
  return [LABELS + x, Math.floor(strip / subnet.columns) * (subnet.cell + subnet.gap) + TOP];
};
const at = (subnet, x, y) => {
  const strip = LINE * subnet.cell + subnet.gap;
  const [column, row] = [(x - LABELS) / strip, (y - TOP) / (subnet.cell + subnet.gap)];
  const inStrip = ((x - LABELS) % strip) / subnet.cell;
  if (column < 0 || column >= subnet.columns || inStrip >= LINE || row < 0) return null;
  const n = (Math.floor(row) * subnet.columns + Math.floor(column)) * LINE + Math.floor(inStrip);
  return n < subnet.squares.length ? n : null;
};
const context = (subnet, canvas) => {
  const width = subnet.grid.clientWidth;
  // Beyond this some browsers draw nothing.
  const ratio = width * subnet.height * devicePixelRatio ** 2 > 16e6 ? 1 : devicePixelRatio;
  const size = [Math.round(width * ratio), Math.round(subnet.height * ratio)];
  const drawing = canvas.getContext("2d");
  if (canvas.width !== size[0] || canvas.height !== size[1]) {
    [canvas.width, canvas.height] = size;
    [canvas.style.width, canvas.style.height] = [width + "px", subnet.height + "px"];
  }
  drawing.setTransform(ratio, 0, 0, ratio, 0, 0);
  drawing.clearRect(0, 0, width, subnet.height);
  return drawing;
};

function draw(subnet) {
  const { cell, gap, columns, rows, squares } = subnet;
  const drawing = context(subnet, subnet.canvas);
  const inner = cell >= 8 ? cell - 1 : cell;
  const of = new Map(kinds.map((kind) => [kind.letter, []]));
  for (let n = 0; n < squares.length; n += 1) of.get(squares[n]).push(n);
  for (const kind of kinds) {
    drawing.fillStyle = color(kind.name);
    for (const n of of.get(kind.letter)) drawing.fillRect(...place(subnet, n), inner, inner);
  }
  const [frame, ofBlock] = [color("frame"), color("block")];
  for (let n = 0; n < squares.length; n += LINE) {
    const [x, y] = place(subnet, n);
    const isHeld = blockOf(subnet, n) !== undefined;
    [drawing.strokeStyle, drawing.lineWidth] = isHeld ? [ofBlock, 2] : [frame, 1];
    drawing.strokeRect(x - 1.5, y - 1.5, LINE * cell + (cell - inner ? 2 : 3), inner + 3);
  }
  drawing.textBaseline = "middle";
  if (cell >= 14) {
    drawing.textAlign = "center";
    drawing.font = `${Math.floor(cell * 0.5)}px ui-monospace, monospace`;
    for (const kind of kinds.filter((kind) => kind.name !== "free")) {
      drawing.fillStyle = color(kind.name + "-ink");
      for (const n of of.get(kind.letter)) {
        const [x, y] = place(subnet, n);
        drawing.fillText(kind.letter, x + inner / 2, y + inner / 2 + 0.5);
      }
    }
  }
  drawing.textAlign = "left";
  drawing.font = "11px ui-monospace, monospace";
  drawing.fillStyle = color("dim");
  const every = Math.ceil(12 / (cell + gap));
  for (let row = 0; row < rows; row += every) {
    drawing.fillText(address(subnet.first + row * columns * LINE), 0, place(subnet, row * columns * LINE)[1] + inner / 2);
  }
  drawOver(subnet);
}

// A veil with holes where something is highlighted.
let wanted = null;
function drawOver(subnet) {
  if (!wanted) {
    subnet.over.width = 0;
    return;
  }
  const drawing = context(subnet, subnet.over);
  const size = subnet.cell >= 8 ? subnet.cell - 1 : subnet.cell;
  drawing.fillStyle = color("veil");
  drawing.fillRect(LABELS - 3, 0, subnet.grid.clientWidth, subnet.height);
  for (let n = 0; n < subnet.squares.length; n += 1) {
    if (wanted(subnet, n)) drawing.clearRect(...place(subnet, n), size, size);
  }
}
function highlight(predicate) {
  wanted = predicate;
  for (const subnet of subnets.filter((subnet) => subnet.visible)) drawOver(subnet);
}

// Only what is in sight has a picture: many large ones would need much memory.
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const subnet = subnets.find((subnet) => subnet.grid === entry.target);
    subnet.visible = entry.isIntersecting;
    if (subnet.visible) draw(subnet);
    else subnet.canvas.width = subnet.over.width = 0;
  }
}, { rootMargin: "50%", scrollMargin: "50%" });
let laidOut = 0;
function layOutAll() {
  laidOut = document.getElementById("subnets").clientWidth;
  hide();
  subnets.forEach(layOut);
  subnets.filter((subnet) => subnet.visible).forEach(draw);
}

