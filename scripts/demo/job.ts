import { join } from 'node:path';
import type { Snapshot, Volume } from '../../src/client/index.js';
import { type Guest, type RecordsReport, startGuest, type WriterStatus } from '../../test/helpers/guest.js';
import { waitFor } from '../../test/helpers/wait.js';
import type { Commands } from '../development/commands.js';
import type { Development } from '../development/development.js';
import { type Narration, secondsSince } from '../development/narration.js';
import { controllerLog, NODE_ID } from '../development/places.js';
import { DEMO_TAG, type EarlierRuns, findEarlierRuns } from './earlier-runs.js';

const MEBIBYTE = 2 ** 20;
/** Seed, offset and length in bytes of the pattern: behind the area of the guest's writer. */
const PATTERN = `7 ${16 * MEBIBYTE} ${16 * MEBIBYTE}`;
/** What overwrites it after the snapshot. */
const LATER_PATTERN = `8 ${16 * MEBIBYTE} ${16 * MEBIBYTE}`;
/** A node that nothing is exported to. It has a key, and no libvirt. */
const OTHER_NODE = 'nc-b';

/** The main job, step by step, as a user does it. */
export class Job {
  readonly #development: Development;
  readonly #commands: Commands;
  readonly #narration: Narration;
  #earlier: EarlierRuns = { volumeIds: [], snapshotIds: [] };
  #volumeId = '';
  #snapshotId = '';
  #copyId = '';
  /** Number of the guest's last record just before and just after the snapshot was asked for. */
  #records: readonly [before: number, after: number] = [0, 0];

  constructor(development: Development) {
    this.#development = development;
    this.#commands = development.commands;
    this.#narration = development.narration;
  }

  /** @throws StepError */
  async run(): Promise<void> {
    const libvirtLog = join(this.#development.host.directory, 'log/libvirtd.log');
    const narration = this.#narration;
    await narration.step('A volume of 10 GiB', [controllerLog], () => this.#createVolume());
    await narration.step(`Exported to ${NODE_ID}`, [controllerLog], () => this.#export(this.#volumeId, 'db'));
    let web1: Guest | undefined;
    await narration.step('A guest boots with it and writes', [libvirtLog, controllerLog], async () => {
      web1 = await this.#boot('web1', 'db');
      const disk = await web1.waitForDisk(this.#volumeId);
      must(await web1.command(`write-pattern ${disk.name} ${PATTERN}`), 'the guest writes');
      return `Linux in web1 sees ${disk.size_bytes / 2 ** 30} GiB with serial ${disk.serial}, and wrote a pattern of 16 MiB.`;
    });
    const first = defined(web1);
    await narration.step('A node without an export is refused', [controllerLog], () => this.#refuse());
    await narration.step('A snapshot while the guest writes', [controllerLog], () => this.#snapshot(first));
    await narration.step('A volume from the snapshot', [controllerLog], () => this.#volumeFromSnapshot());
    await narration.step("The guest's disk is detached", [libvirtLog, controllerLog], async () => {
      await this.#release(this.#volumeId, 'db', 'web1');
      const left = await first.disks();
      if (left.length > 0) throw new Error(`web1 still sees ${left.map((each) => each.name).join(', ')}`);
      await first.destroy();
      return 'The guest let go of it, its secret and its Ceph user are gone, and web1 is off.';
    });
    await narration.step('A second guest boots with the new volume', [libvirtLog, controllerLog], () =>
      this.#readBack(),
    );
    await narration.step('Deleting, and the reaper', [controllerLog], () => this.#delete());
    await narration.step('What there is now', [controllerLog], async () => {
      narration.fact((await this.#commands.run('moorage', 'tree')).stdout);
      return '■ volumes, ◆ snapshots; the next run begins with deleting what this one made.';
    });
  }

  /** Deletes what earlier runs left. @throws StepError */
  async lookAround(): Promise<void> {
    await this.#narration.step('What earlier runs left', [controllerLog], async () => {
      this.#earlier = await findEarlierRuns(this.#development);
      const { volumeIds, snapshotIds } = this.#earlier;
      if (volumeIds.length > 0) await this.#commands.run('moorage', 'volume', 'delete', ...volumeIds);
      if (snapshotIds.length > 0) await this.#commands.run('moorage', 'snapshot', 'delete', ...snapshotIds);
      return volumeIds.length + snapshotIds.length === 0
        ? 'Nothing.'
        : `Volumes: ${volumeIds.length}, snapshots: ${snapshotIds.length}; deleted now, and the reaper purges them from here on.`;
    });
  }

  async #createVolume(): Promise<string> {
    const volume = await this.#commands.ask<Volume>(
      ...(['moorage', 'volume', 'create', '--size', '10GiB', '--name', 'db', '--tag', DEMO_TAG] as const),
    );
    this.#volumeId = volume.id;
    return `${volume.id}: thin, so it takes nothing yet.`;
  }

  async #export(volumeId: string, name: string): Promise<string> {
    await this.#commands.runInto(descriptorOf(name), 'moorage', 'export', volumeId, '--node', NODE_ID);
    const { stdout } = await this.#commands.run('storage-utils', 'inspect', '--descriptor', descriptorOf(name));
    const { export_id: exportId } = JSON.parse(stdout) as { export_id?: string };
    return `${exportId ?? 'The export'} has a Ceph user of its own; its key is in the descriptor, sealed to ${NODE_ID}.`;
  }

  async #boot(name: string, volumeName: string): Promise<Guest> {
    const parameters = ['connect', '--descriptor', descriptorOf(volumeName), '--target', 'vdb'];
    const { stdout: xml } = await this.#commands.run('storage-utils', ...parameters);
    if (name === 'web1') this.#narration.fact(xml);
    return startGuest({ host: this.#development.host, name, disksXml: [xml] });
  }

  async #release(volumeId: string, volumeName: string, domain: string): Promise<void> {
    const descriptor = ['--descriptor', descriptorOf(volumeName)];
    await this.#commands.run('storage-utils', 'detach', ...descriptor, '--domain', domain);
    await this.#commands.run('storage-utils', 'disconnect', ...descriptor);
    await this.#commands.run('moorage', 'unexport', volumeId, '--node', NODE_ID);
  }

  async #refuse(): Promise<string> {
    const commands = this.#commands;
    const keyFile = ['--key-file', `${OTHER_NODE}-keys.json`];
    const publicKey = (await commands.run('storage-utils', 'init', ...keyFile)).stdout.trim();
    await commands.run('moorage', 'node', 'register', OTHER_NODE, '--public-key', publicKey);
    const { stdout: controllerKey } = await commands.quietly(
      'moorage-controller',
      '--config',
      'controller.yaml',
      'public-key',
    );
    await commands.quietly('storage-utils', 'trust', controllerKey.trim(), ...keyFile);
    this.#narration.fact(`${NODE_ID}'s descriptor in ${OTHER_NODE}'s hands:`);
    const stolen = ['connect', '--descriptor', descriptorOf('db'), '--target', 'vdb'];
    await commands.runRefused(3, 'storage-utils', ...stolen, ...keyFile);
    this.#narration.fact(`An administrator who forgets that ${NODE_ID} holds it:`);
    await commands.runRefused(4, 'moorage', 'export', this.#volumeId, '--node', OTHER_NODE);
    this.#narration.fact(`${OTHER_NODE} itself, with its certificate and without a grant:`);
    this.#development.authority.client(OTHER_NODE, `/OU=node/CN=${OTHER_NODE}`);
    await commands.runRefused(
      ...([6, 'moorage', 'export', this.#volumeId, '--node', OTHER_NODE] as const),
      ...['--endpoint', this.#development.controller.tlsAddress],
      ...['--ca', 'ca.pem', '--cert', `${OTHER_NODE}.pem`, '--key', `${OTHER_NODE}.key`],
    );
    return 'By the seal, by the rule of one node at a time, and by its role.';
  }

  async #snapshot(guest: Guest): Promise<string> {
    const { name } = await guest.waitForDisk(this.#volumeId);
    const status = (): Promise<WriterStatus> => guest.command<WriterStatus>(`writer-status ${name}`);
    must(await guest.command(`start-writer ${name} 2`), 'the writer starts');
    await waitFor('the guest has written', async () => (await status()).last_number > 50);
    const before = await status();
    const { id } = await this.#commands.ask<Snapshot>(
      ...(['moorage', 'snapshot', 'create', this.#volumeId, '--name', 'before-upgrade', '--tag', DEMO_TAG] as const),
    );
    this.#snapshotId = id;
    const after = await status();
    await waitFor('the guest goes on', async () => (await status()).last_number > after.last_number + 20);
    this.#records = [before.last_number, after.last_number];
    const writer = must(await guest.command<WriterStatus>(`stop-writer ${name}`), 'the writer ends');
    if (writer.errors > 0) throw new Error(`the guest's writes failed ${writer.errors} times`);
    must(await guest.command(`write-pattern ${name} ${LATER_PATTERN}`), 'the guest writes over the pattern');
    this.#narration.fact(
      `the guest wrote ${writer.last_number} records, ${after.last_number - before.last_number} of them meanwhile: no error, longest pause ${Math.round(writer.longest_pause_ms)} ms`,
    );
    return `${id} is complete; then the guest wrote over its pattern.`;
  }

  async #volumeFromSnapshot(): Promise<string> {
    const { id } = await this.#commands.ask<Volume>(
      ...(['moorage', 'volume', 'create', '--from-snapshot', this.#snapshotId] as const),
      ...['--name', 'db-copy', '--tag', DEMO_TAG],
    );
    this.#copyId = id;
    return `${id}: nothing was copied.`;
  }

  async #readBack(): Promise<string> {
    await this.#export(this.#copyId, 'db-copy');
    const guest = await this.#boot('web2', 'db-copy');
    const { name } = await guest.waitForDisk(this.#copyId);
    must(await guest.command(`read-pattern ${name} ${PATTERN}`), 'web2 reads the pattern');
    const records = must(await guest.command<RecordsReport>(`check-records ${name}`), "web2 reads web1's records");
    const [least, most] = this.#records;
    if (records.highest < least || records.highest > most + 1) {
      throw new Error(`the last record is ${records.highest}, not one from ${least} to ${most}`);
    }
    this.#narration.fact(
      `web2 read the pattern back, and all records up to number ${records.highest}: one moment in time`,
    );
    await this.#commands.ask<Snapshot>(
      ...(['moorage', 'snapshot', 'create', this.#copyId, '--name', 'nightly', '--tag', DEMO_TAG] as const),
    );
    await this.#release(this.#copyId, 'db-copy', 'web2');
    await guest.destroy();
    return 'What was overwritten after the snapshot is there again, in a volume of its own.';
  }

  async #delete(): Promise<string> {
    const commands = this.#commands;
    const trial = await commands.ask<Volume>(
      ...([
        'moorage',
        'volume',
        'create',
        '--from-snapshot',
        this.#snapshotId,
        '--name',
        'trial',
        '--tag',
        DEMO_TAG,
      ] as const),
    );
    const point = await commands.ask<Snapshot>('moorage', 'snapshot', 'create', trial.id, '--tag', DEMO_TAG);
    const last = await commands.ask<Volume>(
      ...([
        'moorage',
        'volume',
        'create',
        '--from-snapshot',
        point.id,
        '--name',
        'trial-copy',
        '--tag',
        DEMO_TAG,
      ] as const),
    );
    await commands.run('moorage', 'volume', 'delete', trial.id);
    await commands.run('moorage', 'snapshot', 'delete', point.id);
    const pending = await this.#left([trial.id, point.id, last.id]);
    if (pending.length < 3) throw new Error('the reaper removed what trial-copy stands on');
    this.#narration.fact('both are deleted, and kept underneath as long as trial-copy stands on them');
    await commands.run('moorage', 'volume', 'delete', last.id);
    const deleted = [trial.id, point.id, last.id, ...this.#earlier.volumeIds, ...this.#earlier.snapshotIds];
    const began = performance.now();
    await waitFor('the reaper has removed what was deleted', async () => (await this.#left(deleted)).length === 0);
    this.#narration.fact(`the reaper needed ${secondsSince(began)} for the rest`);
    const images = await this.#imagesOnCeph();
    return `${deleted.length} deleted and purged, leaf first; on Ceph there are ${images} RBD images left, the trash counted.`;
  }

  /** Those that the controller or Ceph still has. */
  async #left(ids: readonly string[]): Promise<readonly string[]> {
    const tree = await this.#commands.askQuietly<{ volumes: readonly Volume[]; snapshots: readonly Snapshot[] }>(
      ...(['moorage', 'tree', '--all'] as const),
    );
    const known = new Set([...tree.volumes, ...tree.snapshots].map((each) => each.id));
    return ids.filter((id) => known.has(id));
  }

  async #imagesOnCeph(): Promise<number> {
    const { cluster } = this.#development;
    const count = ({ stdout }: { stdout: string }): number => (JSON.parse(stdout) as readonly unknown[]).length;
    const images = count(await cluster.rbd('ls', 'moorage', '--format', 'json'));
    return images + count(await cluster.rbd('trash', 'ls', '--all', 'moorage', '--format', 'json'));
  }
}

/** The file of the state folder in which a volume's descriptor lies. */
function descriptorOf(name: string): string {
  return `${name}.descriptor`;
}

function must<Answer extends { readonly ok: boolean; readonly error?: string }>(answer: Answer, what: string): Answer {
  if (!answer.ok) throw new Error(`${what}: ${answer.error ?? JSON.stringify(answer)}`);
  return answer;
}

function defined<Value>(value: Value | undefined): Value {
  if (value === undefined) throw new Error('not there');
  return value;
}
