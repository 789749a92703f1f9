import type { Command } from 'commander';
import type { Node } from '../../client/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { CommandFailure, EXIT } from '../exit-codes.js';
import type { CommonFlags, Session } from '../session.js';
import { readExports } from './export.js';
import { describeNode } from './node-text.js';
import { changing, mutation } from './volume.js';

interface MutationFlags extends CommonFlags {
  readonly token?: string;
  readonly validateOnly?: boolean;
}

interface FenceFlags extends MutationFlags {
  readonly reason: string;
}

/** Withdrawals that are asked for at once. */
const UNEXPORTS_AT_ONCE = 8;

/** `moorage node fence`, `unfence` and `evacuate` */
export function addNodeFenceCommands(group: Command, context: CommandContext): void {
  changing(
    calling(
      group.command('fence').description('cut a hostile or lost node off as a whole').argument('<name>'),
      'moorage node fence nc-a --reason "does not answer"',
    ),
  )
    .option('--reason <text>', 'why, for people', '')
    .action(async (nodeId: string, flags: FenceFlags) =>
      withSession(context, flags, async (session) => {
        const node = await fence(session, nodeId, flags);
        session.show(node, describeNode(node));
      }),
    );

  changing(
    calling(
      group.command('unfence').description('take back all that a node was cut off with').argument('<name>'),
      'moorage node unfence nc-a --clients-are-dead',
    ),
  )
    .option('--clients-are-dead', 'nothing runs any more that ran there when it was cut off: it was restarted, say')
    .action(async (nodeId: string, flags: MutationFlags & { clientsAreDead?: boolean }) =>
      withSession(context, flags, async (session) => {
        const clientsAreDead = flags.clientsAreDead ?? false;
        const request = { ...mutation(flags), nodeId, clientsAreDead };
        const { operationId } = await session.client.unfenceNode(request, session.patient);
        await session.finish(operationId);
        const { node } = await session.client.getNode({ nodeId });
        session.show(node, describeNode(node));
      }),
    );

  calling(
    group
      .command('evacuate')
      .description('fence a node and withdraw every export of it; done again, it goes on where it was')
      .argument('<name>'),
    'moorage node evacuate nc-a --reason "lost power"',
  )
    .option('--reason <text>', 'why, for people', '')
    .action(async (nodeId: string, flags: FenceFlags) =>
      withSession(context, flags, async (session) => {
        await fence(session, nodeId, flags);
        const { withdrawn, failures } = await withdrawAll(session, nodeId);
        const left = (await readExports(session, '', nodeId)).map(({ id }) => id);
        const lines = withdrawn.map((id) => `${id} is withdrawn\n`).join('');
        session.show({ nodeId, withdrawn, left, failures }, lines);
        if (left.length > 0 || failures.length > 0) {
          const rest = left.length === 0 ? [] : [`${nodeId} still has ${left.length} exports: ${left.join(', ')}`];
          const why = [...failures, ...rest, 'Do it again to go on.'].join('\n');
          throw new CommandFailure(left.length > 0 ? EXIT.notDoneYet : EXIT.failed, why);
        }
        session.note(`${nodeId} is fenced and has no export`);
      }),
    );
}

async function fence(session: Session, nodeId: string, flags: FenceFlags): Promise<Node | null> {
  const request = { ...mutation(flags), nodeId, reason: flags.reason };
  const { node, operationId } = await session.client.fenceNode(request, session.patient);
  if (flags.validateOnly === true) return node;
  await session.finish(operationId);
  return (await session.client.getNode({ nodeId })).node;
}

/** Withdraws every export of a node; one that fails keeps no other from it. */
async function withdrawAll(
  session: Session,
  nodeId: string,
): Promise<{ readonly withdrawn: readonly string[]; readonly failures: readonly string[] }> {
  const withdrawn: string[] = [];
  const failures: string[] = [];
  const queue = await readExports(session, '', nodeId);
  const worker = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) {
      const { id: exportId, volumeId } = item;
      try {
        const { export: left, operationId } = await session.client.unexport({ exportId, force: true }, session.patient);
        if (left !== null) await session.finish(operationId !== '' ? operationId : left.operationId);
        withdrawn.push(exportId);
      } catch (error) {
        failures.push(`${exportId} of ${volumeId}: ${(error as Error).message}`);
      }
    }
  };
  await Promise.all(Array.from({ length: UNEXPORTS_AT_ONCE }, worker));
  return { withdrawn, failures };
}
