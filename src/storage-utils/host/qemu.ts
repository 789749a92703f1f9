import { z } from 'zod';
import { messageOf, StorageUtilsError } from '../errors.js';
import { runProgram } from './exec.js';

/** An RBD image and who opens it. */
export interface ProbedImage {
  readonly cephPool: string;
  readonly image: string;
  readonly monitors: readonly { readonly name: string; readonly port: number }[];
  /** cephx user without "client.". */
  readonly user: string;
  /** Its key in base64, as Ceph writes it. */
  readonly key: string;
}

const answerSchema = z.object({
  id: z.literal('open'),
  error: z.object({ desc: z.string() }).optional(),
});

/**
 * Opens an RBD image read-only with a QEMU of its own, and closes it again. The key goes to it by standard input (QMP).
 * @param emulator the QEMU that libvirt would run.
 * @param timeoutMs how long opening may take, in milliseconds.
 * @returns why this could not be tried here; undefined when the image opened.
 * @throws {StorageUtilsError} `timeout` when Ceph did not answer or knows no such user, `libvirt` when QEMU cannot open it.
 */
export async function probeImage(emulator: string, image: ProbedImage, timeoutMs: number): Promise<string | undefined> {
  const parameters = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-qmp', 'stdio'];
  const began = performance.now();
  let result: Awaited<ReturnType<typeof runProgram>>;
  try {
    result = await runProgram(emulator, parameters, timeoutMs, commandsFor(image));
  } catch (error) {
    return messageOf(error);
  }
  const answer = result.output.split('\n').flatMap((line) => answerIn(line) ?? [])[0];
  const what = `the image ${image.cephPool}/${image.image} cannot be opened as client.${image.user}`;
  if (answer?.error !== undefined) {
    throw new StorageUtilsError('libvirt', `${what}: ${answer.error.desc}; the guest was not touched`);
  }
  if (answer !== undefined) {
    return undefined;
  }
  if (result.status === null && performance.now() - began >= timeoutMs) {
    throw new StorageUtilsError(
      'timeout',
      `${what} within ${timeoutMs} ms: its export was withdrawn (call Export again for a fresh descriptor), or Ceph does ` +
        'not answer; the guest was not touched',
    );
  }
  return `${emulator} ended without an answer (status ${result.status ?? 'none'})`;
}

function commandsFor({ cephPool, image, monitors, user, key }: ProbedImage): string {
  const commands = [
    { execute: 'qmp_capabilities' },
    { execute: 'object-add', arguments: { 'qom-type': 'secret', id: 'key', format: 'base64', data: key } },
    {
      execute: 'blockdev-add',
      id: 'open',
      // Read-only, so that it takes neither a watch nor the lock. The rest is what libvirt makes of the disk's XML.
      arguments: {
        driver: 'rbd',
        'node-name': 'probe',
        'read-only': true,
        pool: cephPool,
        image,
        server: monitors.map((monitor) => ({ host: monitor.name, port: String(monitor.port) })),
        user,
        'auth-client-required': ['cephx', 'none'],
        'key-secret': 'key',
      },
    },
    { execute: 'quit' },
  ];
  return commands.map((command) => `${JSON.stringify(command)}\n`).join('');
}

function answerIn(line: string): z.infer<typeof answerSchema> | undefined {
  try {
    return answerSchema.safeParse(JSON.parse(line)).data;
  } catch {
    // librados writes to the same place, and what it writes is not JSON.
    return undefined;
  }
}
