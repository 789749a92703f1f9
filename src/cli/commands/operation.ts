import type { Command } from 'commander';
import { type Operation, pages } from '../../client/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { formatTime, properties, table } from '../output.js';
import type { CommonFlags, Session } from '../session.js';
import { shortState, stateName } from '../values.js';

const STATES = ['OPERATION_STATE_RUNNING', 'OPERATION_STATE_SUCCEEDED', 'OPERATION_STATE_FAILED'] as const;

interface ListFlags extends CommonFlags {
  readonly resource: string;
  readonly state: (typeof STATES)[number][];
}

/** `moorage operation …` */
export function addOperationCommands(program: Command, context: CommandContext): void {
  const group = program.command('operation').description('operations: changes that run or ran');

  calling(
    group.command('get').description('show an operation').argument('<operation>'),
    'moorage operation get op-0123456789abcdef0',
  ).action(async (operationId: string, flags: CommonFlags) =>
    withSession(context, flags, async (session) => {
      const { operation } = await session.client.getOperation({ operationId });
      session.show(operation, describeOperation(operation));
    }),
  );

  calling(
    group.command('list').description('list operations, oldest first; those that run unless told otherwise'),
    `moorage operation list
     moorage operation list --resource vol-0123456789abcdef0 --state failed`,
  )
    .option('--resource <id>', 'only operations that change this', '')
    .option(
      '--state <state>',
      'only operations in this state; may be repeated',
      stateName('OPERATION_STATE_', STATES),
      [],
    )
    .action(async (flags: ListFlags) => withSession(context, flags, (session) => list(session, flags)));

  calling(
    group.command('wait').description('wait until an operation has ended').argument('<operation>'),
    'moorage operation wait op-0123456789abcdef0 --timeout 10min',
  ).action(async (operationId: string, flags: CommonFlags) =>
    withSession(context, flags, async (session) => {
      await session.finish(operationId);
      const { operation } = await session.client.getOperation({ operationId });
      session.show(operation, describeOperation(operation));
    }),
  );

  calling(
    group
      .command('cancel')
      .description('cancel the flattening of a new snapshot, which is then completed as it is')
      .argument('<operation>'),
    'moorage operation cancel op-0123456789abcdef0',
  ).action(async (operationId: string, flags: CommonFlags) =>
    withSession(context, flags, async (session) => {
      await session.client.cancelOperation({ operationId }, session.patient);
      await session.finish(operationId);
      const { operation } = await session.client.getOperation({ operationId });
      session.show(operation, describeOperation(operation));
    }),
  );
}

async function list(session: Session, flags: ListFlags): Promise<void> {
  const operations: Operation[] = [];
  const read = (pageToken: string) =>
    session.client.listOperations({ pageSize: 1000, pageToken, resourceId: flags.resource, states: flags.state });
  for await (const page of pages(read)) operations.push(...page.operations);
  const head = ['ID', 'KIND', 'RESOURCE', 'STATE', 'PHASE', 'DONE', 'BEGUN', 'BY'];
  const rows = operations.map((operation) => [
    operation.id,
    operation.kind,
    operation.resourceId,
    shortState(operation.state),
    operation.phase,
    operation.progressPercent > 0 ? `${operation.progressPercent}%` : '',
    formatTime(operation.createTime),
    operation.principal,
  ]);
  session.show(operations, table([head, ...rows]));
}

function describeOperation(operation: Operation | null): string {
  if (operation === null) return '';
  return properties([
    ['id', operation.id],
    ['kind', operation.kind],
    ['resource', operation.resourceId],
    ['state', shortState(operation.state)],
    ['phase', operation.phase],
    ['progress', operation.progressPercent > 0 ? `${operation.progressPercent}%` : ''],
    ['cancelled', operation.cancelRequested ? 'yes' : ''],
    ['why', [operation.failureCode, operation.statusMessage].filter((text) => text !== '').join(': ')],
    ['by', operation.principal],
    ['begun', formatTime(operation.createTime)],
    ['ended', formatTime(operation.endTime)],
  ]);
}
