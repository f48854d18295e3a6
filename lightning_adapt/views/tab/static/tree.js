// Parameters grouped by module, as the lines of a list.

const DEEPEST = 10;
const FIRST_LINES = 40;

/** The module tree of parameter names: `{path, label, rows, items}`, parameters as `{row, label}`. */
export function grow(names) {
  const root = { path: "", label: "", rows: [], items: [] };
  const modules = new Map();
  names.forEach((name, row) => {
    const parts = name.split(".");
    const above = parts.slice(0, Math.min(parts.length - 1, DEEPEST));
    let node = root;
    node.rows.push(row);
    above.forEach((part, depth) => {
      const path = parts.slice(0, depth + 1).join(".");
      if (!modules.has(path)) {
        const made = { path, label: part, rows: [], items: [] };
        modules.set(path, made);
        node.items.push(made);
      }
      node = modules.get(path);
      node.rows.push(row);
    });
    node.items.push({ row, label: parts.slice(above.length).join(".") });
  });
  root.items = root.items.map(joined);
  return root;
}

/** A module that holds nothing but one module or parameter is written as one: `model.transformer`. */
function joined(node) {
  if (!node.items) return node;
  if (node.items.length > 1) return { ...node, items: node.items.map(joined) };
  const only = joined(node.items[0]);
  return { ...only, label: `${node.label}.${only.label}` };
}

/** The paths that are open at first: as many levels as fit on one page. */
export function openAtFirst(root) {
  const open = new Set();
  let level = root.items.filter((item) => item.items);
  let lines = root.items.length;
  while (level.length) {
    const more = level.reduce((sum, node) => sum + node.items.length, 0);
    if (lines + more > FIRST_LINES) break;
    level.forEach((node) => open.add(node.path));
    lines += more;
    level = level.flatMap((node) => node.items.filter((item) => item.items));
  }
  return open;
}

/** All paths. */
export function allPaths(root) {
  const found = [];
  const visit = (node) => {
    for (const item of node.items) {
      if (!item.items) continue;
      found.push(item.path);
      visit(item);
    }
  };
  visit(root);
  return found;
}

/** Lines of the tree: `{path, label, depth, rows, open}` for modules, `{row, label, depth, rows}` for parameters. */
export function treeLines(root, open) {
  const lines = [];
  const visit = (node, depth) => {
    for (const item of node.items) {
      if (!item.items) lines.push({ row: item.row, label: item.label, depth, rows: [item.row] });
      else {
        const isOpen = open.has(item.path);
        lines.push({ path: item.path, label: item.label, depth, rows: item.rows, open: isOpen });
        if (isOpen) visit(item, depth + 1);
      }
    }
  };
  visit(root, 0);
  return lines;
}

/** Lines without modules, of those names that hold every word of `search`, in the order of `scores`. */
export function flatLines(names, search, scores = null) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  let rows = names.map((_, row) => row);
  if (words.length) {
    rows = rows.filter((row) => words.every((word) => names[row].toLowerCase().includes(word)));
  }
  if (scores) rows.sort((a, b) => rank(scores[b]) - rank(scores[a]) || a - b);
  return rows.map((row) => ({ row, label: names[row], depth: 0, rows: [row] }));
}

const rank = (score) => (Number.isNaN(score) ? -Infinity : Math.min(score, Number.MAX_VALUE));
