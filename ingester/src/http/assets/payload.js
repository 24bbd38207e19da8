// Payloads: bytes as text, JSON indented digit by digit as it came, and what a correction changes.

// The payload as the text that it is, byte for byte, if it is one.
export function textOf(base64) {
  if (base64 === null) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytesOf(base64));
  } catch {
    return null;
  }
}

export const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

// Space between the tokens only: a number or a text that were read and written again could come out as another one.
export function indented(text) {
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{}:,]|[^\s[\]{}:,"]+/gs) ?? [];
  let depth = 0;
  let shown = "";
  const line = () => `\n${"  ".repeat(depth)}`;
  tokens.forEach((token, at) => {
    const [before, next] = [tokens[at - 1], tokens[at + 1]];
    if (token === "{" || token === "[") {
      depth += 1;
      shown += token + (next === "}" || next === "]" ? "" : line());
    } else if (token === "}" || token === "]") {
      depth -= 1;
      shown += (before === "{" || before === "[" ? "" : line()) + token;
    } else if (token === ",") shown += token + line();
    else shown += token === ":" ? ": " : token;
  });
  return shown;
}

// Lines of both, each with ` `, `-` or `+`: the fewest that change.
export function difference(before, after) {
  const [old, now] = [before.split("\n"), after.split("\n")];
  let start = 0;
  while (start < old.length && start < now.length && old[start] === now[start]) start += 1;
  let end = 0;
  while (end < old.length - start && end < now.length - start && old.at(-1 - end) === now.at(-1 - end)) end += 1;
  const [mine, theirs] = [old.slice(start, old.length - end), now.slice(start, now.length - end)];
  const same = (lines) => lines.map((text) => [" ", text]);
  return [...same(old.slice(0, start)), ...between(mine, theirs), ...same(old.slice(old.length - end))];
}

const MOST = 1_000_000;

function between(old, now) {
  const all = [...old.map((text) => ["-", text]), ...now.map((text) => ["+", text])];
  // Too much to compare line by line.
  if (old.length * now.length > MOST) return all;
  const longest = Array.from({ length: old.length + 1 }, () => new Uint32Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = now.length - 1; j >= 0; j -= 1) {
      longest[i][j] = old[i] === now[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const lines = [];
  let [i, j] = [0, 0];
  while (i < old.length || j < now.length) {
    if (i < old.length && j < now.length && old[i] === now[j]) {
      lines.push([" ", old[i]]);
      i += 1;
      j += 1;
    } else if (j >= now.length || (i < old.length && longest[i + 1][j] >= longest[i][j + 1])) lines.push(["-", old[i++]]);
    else lines.push(["+", now[j++]]);
  }
  return lines;
}
