import { randomUUID } from 'node:crypto';
import { type Command, Option } from 'commander';
import { type Export, type Grant, pages } from '../../client/index.js';
import { formatDescriptor } from '../../descriptor/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { CommandFailure, EXIT } from '../exit-codes.js';
import { formatTime, properties, table } from '../output.js';
import type { CommonFlags, Session } from '../session.js';
import { parseDuration, shortState, toDuration } from '../values.js';
import { changing, mutation } from './volume.js';

interface MutationFlags extends CommonFlags {
  readonly token?: string;
  readonly validateOnly?: boolean;
}

interface ExportFlags extends MutationFlags {
  readonly node?: string;
  readonly grant?: string;
  readonly instance: string;
  readonly readOnly?: boolean;
  readonly migration?: boolean;
  readonly lifetime?: number;
}

interface UnexportFlags extends MutationFlags {
  readonly node?: string;
  readonly force?: boolean;
}

/** `moorage grant`, `export`, `unexport` and `exports …` */
export function addExportCommands(program: Command, context: CommandContext): void {
  addGrant(program, context);

  changing(
    calling(
      program
        .command('export')
        .description('make a volume reachable for a node; prints the descriptor, and nothing else, on stdout')
        .argument('<volume>'),
      `moorage export vol-0123456789abcdef0 --node nc-a > descriptor
       moorage export vol-0123456789abcdef0 --grant grant-0123456789abcdef0 > descriptor`,
    ),
  )
    .option('--node <name>', 'the node (administrators)')
    .addOption(new Option('--grant <id>', 'the grant to redeem (nodes)').conflicts(['node', 'migration', 'readOnly']))
    .option('--instance <name>', 'the virtual machine it is for', '')
    .option('--read-only', 'the node may only read')
    .option('--migration', 'the second export of a migration of that instance')
    .option('--lifetime <duration>', 'how long the descriptor can be connected with; 1h unless given', parseDuration)
    .action(async (volumeId: string, flags: ExportFlags) =>
      withSession(context, flags, (session) => exportVolume(session, volumeId, flags)),
    );

  changing(
    calling(
      program
        .command('unexport')
        .description('withdraw an export; when there is none, that is well')
        .argument('<volume-or-export>', 'an export, or a volume with --node'),
      `moorage unexport vol-0123456789abcdef0 --node nc-a
       moorage unexport exp-0123456789abcdef0 --force`,
    ),
  )
    .option('--node <name>', 'the node that the volume is exported to')
    .option('--force', 'cut the node off although it has the volume open; ends when that is certain')
    .action(async (id: string, flags: UnexportFlags) =>
      withSession(context, flags, (session) => unexport(session, id, flags)),
    );

  const group = program.command('exports').description('exports: which node holds what');
  calling(
    group.command('get').description('show an export').argument('<export>'),
    'moorage exports get exp-0123456789abcdef0',
  ).action(async (exportId: string, flags: CommonFlags) =>
    withSession(context, flags, async (session) => {
      const { export: found } = await session.client.getExport({ exportId });
      session.show(found, describeExport(found));
    }),
  );
  calling(group.command('list').description('list exports, oldest first'), 'moorage exports list --node nc-a')
    .option('--volume <id>', 'only exports of this volume', '')
    .option('--node <name>', 'only exports to this node', '')
    .action(async (flags: CommonFlags & { volume: string; node: string }) =>
      withSession(context, flags, async (session) => {
        const found = await readExports(session, flags.volume, flags.node);
        const head = ['ID', 'VOLUME', 'NODE', 'INSTANCE', 'STATE', 'MODE', 'SINCE'];
        const rows = found.map((each) => [
          each.id,
          each.volumeId,
          each.nodeId,
          each.instance,
          shortState(each.state),
          modeOf(each),
          formatTime(each.createTime),
        ]);
        session.show(found, table([head, ...rows]));
      }),
    );
}

function addGrant(program: Command, context: CommandContext): void {
  changing(
    calling(
      program.command('grant').description('give a node leave to export a volume').argument('<volume>'),
      'moorage grant vol-0123456789abcdef0 --node nc-a --instance web1 --lifetime 10min',
    ),
  )
    .requiredOption('--node <name>', 'the node')
    .option('--instance <name>', 'the virtual machine it is for', '')
    .option('--read-only', 'the node may only read')
    .option('--migration', 'for the second export of a migration of that instance')
    .option(
      '--lifetime <duration>',
      'how long it can be redeemed for the first time; 10min unless given',
      parseDuration,
    )
    .action(async (volumeId: string, flags: ExportFlags & { node: string }) =>
      withSession(context, flags, async (session) => {
        const { grant } = await session.client.grantExport(
          {
            ...mutation(flags),
            volumeId,
            nodeId: flags.node,
            instance: flags.instance,
            migration: flags.migration ?? false,
            readOnly: flags.readOnly ?? false,
            ...(flags.lifetime !== undefined && { lifetime: toDuration(flags.lifetime) }),
          },
          session.patient,
        );
        session.show(grant, describeGrant(grant));
      }),
    );

  changing(
    calling(
      program
        .command('revoke-grant')
        .description('take a grant back that was not redeemed; what was exported by it stays so')
        .argument('<grant>'),
      'moorage revoke-grant grant-0123456789abcdef0',
    ),
  ).action(async (grantId: string, flags: MutationFlags) =>
    withSession(context, flags, async (session) => {
      const { grant } = await session.client.revokeGrant({ ...mutation(flags), grantId }, session.patient);
      session.show(grant, describeGrant(grant));
      if (grant !== null && grant.exportId !== '') {
        session.note(`it was redeemed: ${grant.exportId} is there until it is withdrawn (moorage unexport)`);
      }
    }),
  );
}

function describeGrant(grant: Grant | null): string {
  if (grant === null) return '';
  return properties([
    ['id', grant.id],
    ['volume', grant.volumeId],
    ['node', grant.nodeId],
    ['instance', grant.instance],
    ['redeem until', formatTime(grant.expireTime)],
    ['redeemed by', grant.exportId],
    ['revoked', formatTime(grant.revokeTime)],
  ]);
}

async function exportVolume(session: Session, volumeId: string, flags: ExportFlags): Promise<void> {
  if ((flags.node === undefined) === (flags.grant === undefined)) {
    throw new CommandFailure(EXIT.usage, 'give --node (administrators) or --grant (nodes)');
  }
  const request = {
    ...mutation(flags),
    clientToken: flags.token ?? randomUUID(),
    volumeId,
    ...(flags.grant !== undefined
      ? { grantId: flags.grant }
      : {
          direct: {
            nodeId: flags.node ?? '',
            instance: flags.instance,
            migration: flags.migration ?? false,
            readOnly: flags.readOnly ?? false,
            ...(flags.lifetime !== undefined && { descriptorLifetime: toDuration(flags.lifetime) }),
          },
        }),
  };
  let answer = await session.client.export(request, session.patient);
  if (flags.validateOnly) {
    session.note('this export could be made');
    return;
  }
  if (answer.descriptor.length === 0) {
    await waitForExport(session, answer.operationId, answer.export);
    answer = await session.client.export(request, session.patient);
  }
  if (answer.descriptor.length === 0) {
    throw new CommandFailure(
      EXIT.notDoneYet,
      `${answer.export?.id} is ${shortState(answer.export?.state ?? '')}; run this again`,
    );
  }
  const text = formatDescriptor(answer.descriptor);
  // Whoever pipes this into a file wants the descriptor in it and nothing else.
  session.show(
    { export: answer.export, descriptor: text, descriptorExpireTime: answer.descriptorExpireTime },
    `${text}\n`,
  );
  session.note(`${answer.export?.id}: connect until ${formatTime(answer.descriptorExpireTime)}`);
}

/** A node may not ask for operations: it asks for its export again, which waits by itself. */
async function waitForExport(session: Session, operationId: string, made: Export | null): Promise<void> {
  const operation = operationId !== '' ? operationId : (made?.operationId ?? '');
  try {
    await session.finish(operation);
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'PERMISSION_DENIED') throw error;
  }
}

async function unexport(session: Session, id: string, flags: UnexportFlags): Promise<void> {
  const isExport = id.startsWith('exp-');
  if (!isExport && flags.node === undefined) {
    throw new CommandFailure(EXIT.usage, 'say which export: its id, or a volume and --node');
  }
  const ids = isExport ? [id] : (await readExports(session, id, flags.node ?? '')).map((each) => each.id);
  if (ids.length === 0) {
    session.show([], '');
    session.note(`${id} is not exported to ${flags.node}`);
    return;
  }
  for (const exportId of ids) {
    const { export: left, operationId } = await session.client.unexport(
      { ...mutation(flags), exportId, force: flags.force ?? false },
      session.patient,
    );
    if (!flags.validateOnly && left !== null) await session.finish(operationId !== '' ? operationId : left.operationId);
    session.show({ id: exportId, validateOnly: flags.validateOnly ?? false }, '');
    session.note(flags.validateOnly ? `${exportId} could be withdrawn` : `${exportId} is withdrawn`);
  }
}

/** All exports of a volume, to a node, or both; empty texts ask for nothing. */
export async function readExports(session: Session, volumeId: string, nodeId: string): Promise<Export[]> {
  const found: Export[] = [];
  const read = (pageToken: string) => session.client.listExports({ pageSize: 1000, pageToken, volumeId, nodeId });
  for await (const page of pages(read)) found.push(...page.exports);
  return found;
}

function modeOf(each: Export): string {
  return [each.readOnly ? 'read-only' : 'read-write', ...(each.migration ? ['migration'] : [])].join(' ');
}

function describeExport(found: Export | null): string {
  if (found === null) return '';
  return properties([
    ['id', found.id],
    ['volume', found.volumeId],
    ['node', found.nodeId],
    ['instance', found.instance],
    ['state', shortState(found.state)],
    ['why', found.statusMessage],
    ['mode', modeOf(found)],
    ['grant', found.grantId],
    ['since', formatTime(found.createTime)],
    ['operation', found.operationId],
  ]);
}
