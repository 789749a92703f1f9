import { mkdir, readFile, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { developmentDirectory, repositoryDirectory } from './cluster.js';
import { CommandError, execute } from './exec.js';
import type { LibvirtHost } from './libvirt-host.js';
import { waitFor } from './wait.js';

/** What test/guest/disk-agent.c answers; its head says which command gives which members. */
export interface GuestAnswer {
  readonly ok: boolean;
  readonly error?: string;
  /** Linux error number. */
  readonly errno?: number;
  readonly [member: string]: unknown;
}

/** State of one writer in the guest. */
export interface WriterStatus extends GuestAnswer {
  readonly device: string;
  readonly running: boolean;
  /** Completed writes since it was started. */
  readonly records: number;
  /** Number of the last record that was completed. */
  readonly last_number: number;
  readonly errors: number;
  readonly first_errno: number;
  readonly last_errno: number;
  /** Milliseconds between two completed writes, or since the last one if that is longer. */
  readonly longest_pause_ms: number;
}

/** What stands in a writer's area. */
export interface RecordsReport extends GuestAnswer {
  /** Number of the last record; all before it that the area can hold are there when `ok`. */
  readonly highest: number;
  readonly valid: number;
  readonly empty: number;
  readonly corrupt: number;
  readonly out_of_order: number;
}

export interface GuestDisk {
  readonly name: string;
  readonly size_bytes: number;
  readonly serial: string;
  readonly read_only: boolean;
}

/** A running virtual machine with a program in it that works its disks on command. */
export interface Guest {
  /** The libvirt domain's name. */
  readonly name: string;
  /**
   * Gives one command to the guest and waits for its answer; commands are carried out one after the other.
   *
   * @throws Error when the guest's console closes or nothing is answered in time (default 120,000 ms)
   */
  command<Answer extends GuestAnswer = GuestAnswer>(line: string, timeoutMilliseconds?: number): Promise<Answer>;
  disks(): Promise<readonly GuestDisk[]>;
  /** Waits until the guest sees a disk with that serial number (as far as the guest sees it: 20 characters on virtio). */
  waitForDisk(serial: string): Promise<GuestDisk>;
  /** Everything that the kernel printed so far. */
  console(): Promise<string>;
  waitForConsole(pattern: RegExp, timeoutMilliseconds?: number): Promise<void>;
  attachDisk(xml: string): Promise<void>;
  /** Waits until the guest has let go of it. */
  detachDisk(xml: string): Promise<void>;
  /** After a live migration to another host: its console is there from now on. */
  movedTo(host: LibvirtHost): Promise<void>;
  /** Cuts its power; OK when it is gone already. */
  destroy(): Promise<void>;
}

export interface GuestOptions {
  readonly host: LibvirtHost;
  /** Name of the domain: letters, digits and `-`. */
  readonly name: string;
  /** `<disk>` elements. */
  readonly disksXml?: readonly string[];
  /** Default 256. */
  readonly memoryMebibytes?: number;
}

/**
 * Builds the guest's system if need be, boots it and waits until it takes commands (about 4 s).
 *
 * @throws CommandError when libvirt refuses the domain
 * @throws WaitTimeoutError when it does not come up
 */
export async function startGuest(options: GuestOptions): Promise<Guest> {
  await execute(join(repositoryDirectory, 'scripts/guest.sh'), [], { timeoutMilliseconds: 600_000 });
  const guest = new RunningGuest(options.host, options.name);
  await guest.boot(domainXml(options));
  return guest;
}

// Paths as the host's own libvirtd sees them: the same XML works on every host, also where a migration ends.
const guestFiles = '/var/lib/libvirt/guests';

function domainXml(options: GuestOptions): string {
  const system = join(developmentDirectory, 'guest');
  const kernelParameters =
    'console=ttyS0 loglevel=4 panic=-1 mitigations=off tsc=reliable rcupdate.rcu_expedited=1 init_on_alloc=0 random.trust_cpu=on';
  return `<domain type='qemu'>
  <name>${options.name}</name>
  <memory unit='MiB'>${options.memoryMebibytes ?? 256}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${system}/vmlinuz</kernel>
    <initrd>${system}/initrd.gz</initrd>
    <cmdline>${kernelParameters}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    ${(options.disksXml ?? []).join('\n')}
    <controller type='usb' model='none'/>
    <controller type='scsi' model='virtio-scsi'/>
    <serial type='file'><source path='${guestFiles}/${options.name}.log'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='${guestFiles}/${options.name}.sock'/><target port='1'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>`;
}

interface Waiting {
  resolve(answer: GuestAnswer): void;
  reject(error: Error): void;
}

class RunningGuest implements Guest {
  readonly name: string;
  #host: LibvirtHost;
  #socket: Socket | undefined;
  #nextId = 1;
  readonly #waiting = new Map<string, Waiting>();

  constructor(host: LibvirtHost, name: string) {
    this.#host = host;
    this.name = name;
  }

  async boot(xml: string): Promise<void> {
    await mkdir(join(this.#host.directory, 'lib/guests'), { recursive: true });
    await rm(this.#file('log'), { force: true });
    await this.#host.virshWithXml(xml, 'create', '/dev/stdin');
    try {
      await this.waitForConsole(/MOORAGE-GUEST-READY/, 180_000);
      await this.#connect();
      // The first answer proves that nothing of what was sent before is lost.
      await this.command('list-disks');
    } catch (error) {
      const text = await this.console();
      await this.destroy();
      throw new Error(`guest ${this.name} did not come up; its console says:\n${text.slice(-2000)}`, { cause: error });
    }
  }

  async command<Answer extends GuestAnswer = GuestAnswer>(
    line: string,
    timeoutMilliseconds = 120_000,
  ): Promise<Answer> {
    const socket = this.#socket;
    if (socket === undefined || socket.destroyed) {
      throw new Error(`guest ${this.name} has no console: ${line}`);
    }
    const id = String(this.#nextId++);
    const answer = await new Promise<GuestAnswer>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error(`guest ${this.name} did not answer in ${timeoutMilliseconds} ms: ${line}`));
      }, timeoutMilliseconds);
      this.#waiting.set(id, {
        resolve: (value) => {
          clearTimeout(timer);
          resolve(value);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      });
      socket.write(`${id} ${line}\n`);
    });
    return answer as Answer;
  }

  async disks(): Promise<readonly GuestDisk[]> {
    return (await this.command<GuestAnswer & { disks: GuestDisk[] }>('list-disks')).disks;
  }

  waitForDisk(serial: string): Promise<GuestDisk> {
    return waitFor(`guest ${this.name} sees disk ${serial}`, async () =>
      (await this.disks()).find((each) => each.serial !== '' && serial.startsWith(each.serial)),
    );
  }

  async console(): Promise<string> {
    try {
      return await readFile(this.#file('log'), 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
      throw error;
    }
  }

  async waitForConsole(pattern: RegExp, timeoutMilliseconds = 90_000): Promise<void> {
    await waitFor(
      `guest ${this.name} prints ${String(pattern)}`,
      async () => (pattern.test(await this.console()) ? true : undefined),
      { timeoutMilliseconds },
    );
  }

  async attachDisk(xml: string): Promise<void> {
    await this.#host.virshWithXml(xml, 'attach-device', this.name, '/dev/stdin', '--live');
  }

  async detachDisk(xml: string): Promise<void> {
    const target = /<target[^>]*\bdev=["']([^"']+)["']/.exec(xml)?.[1];
    if (target === undefined) throw new Error('the disk XML to detach has no target device');
    await this.#host.virshWithXml(xml, 'detach-device', this.name, '/dev/stdin', '--live');
    await waitFor(
      `guest ${this.name} has let go of ${target}`,
      async () => !(await this.#host.virsh('dumpxml', this.name)).stdout.includes(`<target dev='${target}'`),
    );
  }

  async movedTo(host: LibvirtHost): Promise<void> {
    this.#disconnect(new Error(`guest ${this.name} moved to ${host.name}`));
    this.#host = host;
    await this.#connect();
  }

  async destroy(): Promise<void> {
    this.#disconnect(new Error(`guest ${this.name} was destroyed`));
    try {
      await this.#host.virsh('destroy', this.name);
    } catch (error) {
      if (!(error instanceof CommandError && /failed to get domain|domain is not running/i.test(error.stderr)))
        throw error;
    }
  }

  #file(kind: 'log' | 'sock'): string {
    return join(this.#host.directory, 'lib/guests', `${this.name}.${kind}`);
  }

  async #connect(): Promise<void> {
    const socket = connect(this.#file('sock'));
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    socket.on('error', (error) => this.#disconnect(error));
    socket.on('close', () => this.#disconnect(new Error(`guest ${this.name} closed its console`)));
    createInterface({ input: socket }).on('line', (line) => this.#take(line));
    this.#socket = socket;
  }

  #disconnect(reason: Error): void {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.removeAllListeners('close');
    socket?.destroy();
    for (const waiting of this.#waiting.values()) waiting.reject(reason);
    this.#waiting.clear();
  }

  #take(line: string): void {
    // A line that was cut off by an earlier end of the connection belongs to nobody.
    if (!line.startsWith('{') || !line.endsWith('}')) return;
    const { id, ...answer } = JSON.parse(line) as GuestAnswer & { id: string };
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    waiting?.resolve(answer as GuestAnswer);
  }
}
