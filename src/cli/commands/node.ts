import type { Command } from 'commander';
import { type Node, pages } from '../../client/index.js';
import { parseNodePublicKey } from '../../descriptor/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { CommandFailure, EXIT } from '../exit-codes.js';
import { type LabelFlags, labelling, updateFields } from '../labels.js';
import { formatTags, formatTime, table } from '../output.js';
import type { CommonFlags } from '../session.js';
import { collect, collectTag, parseDuration, toDuration } from '../values.js';
import { addNodeFenceCommands } from './node-fence.js';
import { describeNode, fenceState } from './node-text.js';
import { changing, mutation } from './volume.js';

interface MutationFlags extends CommonFlags {
  readonly token?: string;
  readonly validateOnly?: boolean;
}

interface RegisterFlags extends MutationFlags {
  readonly publicKey: string;
  readonly address: string[];
  readonly initiatorName: string;
  readonly tag: Record<string, string>;
}

interface EnrollFlags extends MutationFlags {
  readonly lifetime?: number;
  readonly address: string[];
  readonly initiatorName: string;
  readonly tag: Record<string, string>;
}

/** `moorage node …` */
export function addNodeCommands(program: Command, context: CommandContext): void {
  const group = program.command('node').description('nodes: hypervisor hosts');

  changing(
    calling(
      group
        .command('register')
        .description('make a node known')
        .argument('<name>', 'the name that its certificate bears'),
      'moorage node register nc-a --public-key moorage-node-key:… --address 192.0.2.11',
    ),
  )
    .requiredOption('--public-key <text>', 'what `storage-utils init` prints on the node')
    .option('--address <ip>', 'an address from which it talks to the storage; may be repeated', collect, [])
    .option('--initiator-name <iqn>', 'its iSCSI initiator name', '')
    .option('--tag <key=value>', 'a tag; may be repeated', collectTag, {})
    .action(async (nodeId: string, flags: RegisterFlags) =>
      withSession(context, flags, async (session) => {
        const { node } = await session.client.registerNode(
          {
            ...mutation(flags),
            nodeId,
            publicKey: Buffer.from(readPublicKey(flags.publicKey)),
            storageAddresses: flags.address,
            initiatorName: flags.initiatorName,
            tags: flags.tag,
          },
          session.patient,
        );
        session.show(node, describeNode(node));
      }),
    );

  changing(
    calling(
      group
        .command('enroll')
        .description(
          'give a machine leave to register itself under a name, once; prints the token, and nothing else, on stdout',
        )
        .argument('<name>', 'the name that it will have'),
      'moorage node enroll nc-a --address 192.0.2.11 > token',
    ),
  )
    .option('--lifetime <duration>', 'how long the token can be used; 15min unless given', parseDuration)
    .option('--address <ip>', 'an address from which it talks to the storage; may be repeated', collect, [])
    .option('--initiator-name <iqn>', 'its iSCSI initiator name', '')
    .option('--tag <key=value>', 'a tag; may be repeated', collectTag, {})
    .action(async (nodeId: string, flags: EnrollFlags) =>
      withSession(context, flags, async (session) => {
        const answer = await session.client.createEnrollmentToken(
          {
            ...mutation(flags),
            nodeId,
            storageAddresses: flags.address,
            initiatorName: flags.initiatorName,
            tags: flags.tag,
            ...(flags.lifetime !== undefined && { lifetime: toDuration(flags.lifetime) }),
          },
          session.patient,
        );
        if (flags.validateOnly) {
          session.note(`${nodeId} could be enrolled`);
          return;
        }
        session.show({ nodeId, token: answer.token, expireTime: answer.expireTime }, `${answer.token}\n`);
        session.note(
          `for "storage-utils enroll" on ${nodeId}, until ${formatTime(answer.expireTime)}; whoever has it becomes that node`,
        );
      }),
    );

  changing(
    calling(
      group
        .command('rotate-key')
        .description(
          'give a node another key for descriptors; what is attached goes on (a node does it with `storage-utils rotate-key`)',
        )
        .argument('<name>'),
      'moorage node rotate-key nc-a --public-key moorage-node-key:…',
    ),
  )
    .requiredOption('--public-key <text>', 'what `storage-utils init` prints on the node')
    .action(async (nodeId: string, flags: MutationFlags & { publicKey: string }) =>
      withSession(context, flags, async (session) => {
        const publicKey = Buffer.from(readPublicKey(flags.publicKey));
        const { node } = await session.client.rotateNodeKey({ ...mutation(flags), nodeId, publicKey }, session.patient);
        session.show(node, describeNode(node));
      }),
    );

  calling(group.command('get').description('show a node').argument('<name>'), 'moorage node get nc-a').action(
    async (nodeId: string, flags: CommonFlags) =>
      withSession(context, flags, async (session) => {
        const { node } = await session.client.getNode({ nodeId });
        session.show(node, describeNode(node));
      }),
  );

  calling(group.command('list').description('list nodes by name'), 'moorage node list').action(
    async (flags: CommonFlags) =>
      withSession(context, flags, async (session) => {
        const nodes: Node[] = [];
        const read = (pageToken: string) => session.client.listNodes({ pageSize: 1000, pageToken });
        for await (const page of pages(read)) nodes.push(...page.nodes);
        const head = ['NAME', 'KEY', 'ADDRESSES', 'FENCE', 'TAGS', 'REGISTERED'];
        const rows = nodes.map((node) => [
          node.id,
          node.publicKeyId,
          node.storageAddresses.join(' '),
          fenceState(node),
          formatTags(node.tags),
          formatTime(node.createTime),
        ]);
        session.show(nodes, table([head, ...rows]));
      }),
  );

  labelling(
    changing(
      calling(
        group.command('update').description("change a node's tags and initiator name").argument('<name>'),
        'moorage node update nc-a --tag rack=7',
      ),
    ),
  )
    .option('--initiator-name <iqn>', 'its iSCSI initiator name')
    .action(async (nodeId: string, flags: MutationFlags & LabelFlags & { initiatorName?: string }) =>
      withSession(context, flags, async (session) => {
        const { node } = await session.client.updateNode(
          {
            ...mutation(flags),
            ...updateFields(flags, flags.initiatorName === undefined ? [] : ['initiator_name']),
            nodeId,
            initiatorName: flags.initiatorName ?? '',
          },
          session.patient,
        );
        session.show(node, describeNode(node));
      }),
    );

  changing(
    calling(
      group.command('remove').description('forget a node that has no export').argument('<name>'),
      'moorage node remove nc-a',
    ),
  ).action(async (nodeId: string, flags: MutationFlags) =>
    withSession(context, flags, async (session) => {
      await session.client.removeNode({ ...mutation(flags), nodeId }, session.patient);
      session.show({ id: nodeId }, '');
      session.note(flags.validateOnly ? `${nodeId} could be removed` : `${nodeId} is removed`);
    }),
  );

  addNodeFenceCommands(group, context);
}

function readPublicKey(text: string): Uint8Array {
  try {
    return parseNodePublicKey(text);
  } catch (error) {
    throw new CommandFailure(EXIT.usage, `--public-key: ${(error as Error).message}`);
  }
}
