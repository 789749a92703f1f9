import type { Snapshot, Volume } from '../client/index.js';
import { printable } from './output.js';
import { formatSize, shortState } from './values.js';

/** A volume or a snapshot in the tree, with what came of it. */
interface Branch {
  readonly line: string;
  readonly createTime: number;
  readonly children: Branch[];
}

/**
 * Draws volumes and snapshots as a tree: under a volume its snapshots, under a snapshot the volumes made from it. What lost
 * its origin stands at the root and names it.
 */
export function drawTree(volumes: readonly Volume[], snapshots: readonly Snapshot[]): string {
  const branches = new Map<string, Branch>();
  for (const volume of volumes) {
    branches.set(volume.id, { line: volumeLine(volume), createTime: timeOf(volume.createTime), children: [] });
  }
  for (const snapshot of snapshots) {
    branches.set(snapshot.id, { line: snapshotLine(snapshot), createTime: timeOf(snapshot.createTime), children: [] });
  }
  const roots: Branch[] = [];
  const place = (id: string, originId: string | undefined): void => {
    const branch = branches.get(id);
    if (branch === undefined) return;
    const origin = originId === undefined || originId === '' ? undefined : branches.get(originId);
    if (origin !== undefined) origin.children.push(branch);
    else roots.push(originId === undefined || originId === '' ? branch : orphan(branch, originId));
  };
  for (const volume of volumes) place(volume.id, volume.source?.snapshotId);
  for (const snapshot of snapshots) place(snapshot.id, snapshot.volumeId);
  return byAge(roots)
    .map((root) => `${root.line}\n${drawChildren(root, '')}`)
    .join('');
}

function drawChildren(branch: Branch, indent: string): string {
  const children = byAge(branch.children);
  return children
    .map((child, index) => {
      const isLast = index === children.length - 1;
      const below = drawChildren(child, `${indent}${isLast ? '   ' : '│  '}`);
      return `${indent}${isLast ? '└─ ' : '├─ '}${child.line}\n${below}`;
    })
    .join('');
}

function byAge(branches: readonly Branch[]): Branch[] {
  return [...branches].sort((left, right) => left.createTime - right.createTime);
}

function orphan(branch: Branch, originId: string): Branch {
  return { ...branch, line: `${branch.line}  (of ${originId}, which is gone)` };
}

function volumeLine(volume: Volume): string {
  const exports = volume.exportIds.length === 0 ? [] : [`exported ×${volume.exportIds.length}`];
  return line('■', volume, exports);
}

function snapshotLine(snapshot: Snapshot): string {
  return line('◆', snapshot, []);
}

function line(sign: string, item: Volume | Snapshot, more: readonly string[]): string {
  const name = item.displayName === '' ? [] : [printable(item.displayName)];
  return [`${sign} ${item.id}`, ...name, formatSize(item.sizeBytes), shortState(item.state), ...more].join('  ');
}

function timeOf(time: { readonly seconds: string; readonly nanos: number } | null): number {
  return time === null ? 0 : Number(time.seconds) + time.nanos / 1e9;
}
