import { type Command, Option } from 'commander';
import type { Finding, FindingClass, Repaired } from '../../client/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { CommandFailure, EXIT } from '../exit-codes.js';
import { formatTime, table } from '../output.js';
import type { CommonFlags, Session } from '../session.js';
import { formatSize } from '../values.js';

interface CheckFlags extends CommonFlags {
  readonly pool: string;
}

interface RepairFlags extends CheckFlags {
  readonly dryRun?: boolean;
  readonly class: readonly string[];
  readonly resource: readonly string[];
}

interface RebuildFlags extends CommonFlags {
  readonly dryRun?: boolean;
}

interface Progress {
  readonly resources: string;
  readonly entries: string;
  readonly images: string;
  readonly foreignImages: string;
  readonly busy: string;
}

/** How long one page may take: the controller answers well before, and says where to go on. */
const PAGE_MILLISECONDS = 60_000;

const collect = (value: string, before: readonly string[]): readonly string[] => [...before, value];

/** `moorage check`, `repair`, `rebuild` and `store backup` */
export function addAdminCommands(program: Command, context: CommandContext): void {
  calling(
    program
      .command('check')
      .description('compare the store, the catalogue and the storage; exits with 1 when something differs'),
    `moorage check
     moorage check --pool ssd --json`,
  )
    .option('--pool <name>', 'only this pool', '')
    .action(async (flags: CheckFlags) => withSession(context, flags, (session) => check(session, flags)));

  calling(
    program
      .command('repair')
      .description('mend what check finds; exits with 1 when something is left that it could not mend'),
    `moorage repair --dry-run
     moorage repair
     moorage repair --class image-trashed --resource vol-0123456789abcdef0`,
  )
    .option('--pool <name>', 'only this pool', '')
    .option('--dry-run', 'say what would be done and do nothing')
    .addOption(
      new Option('--class <name>', 'only this class, also one that is mended on request only; may be repeated')
        .argParser(collect)
        .default([], 'all that are mended by themselves'),
    )
    .addOption(
      new Option('--resource <id>', 'only what concerns this volume, snapshot, export or operation; may be repeated')
        .argParser(collect)
        .default([], 'all'),
    )
    .action(async (flags: RepairFlags) => withSession(context, flags, (session) => repair(session, flags)));

  calling(
    program
      .command('rebuild')
      .description(
        'make an empty store whole again from the catalogue; create its pools before, under their old names',
      ),
    `moorage rebuild --dry-run
     moorage rebuild`,
  )
    .option('--dry-run', 'say what would be done and do nothing')
    .action(async (flags: RebuildFlags) => withSession(context, flags, (session) => rebuild(session, flags)));

  const store = program.command('store').description('the store of the controller');
  calling(
    store.command('backup').description("copy the store into the backup directory of the controller's host"),
    'moorage store backup',
  ).action(async (flags: CommonFlags) =>
    withSession(context, flags, async (session) => {
      const backup = await session.client.backupStore({});
      session.show(backup, `${backup.path}\n`);
      session.note(`${formatSize(backup.sizeBytes)}, as of ${formatTime(backup.time)}`);
    }),
  );
}

/** "FINDING_CLASS_IMAGE_MISSING" → "image-missing". */
function shortClass(name: string): string {
  return name.replace('FINDING_CLASS_', '').toLowerCase().replaceAll('_', '-');
}

function longClass(name: string): FindingClass {
  return `FINDING_CLASS_${name.toUpperCase().replaceAll('-', '_')}` as FindingClass;
}

const REMEDIES: Readonly<Record<string, string>> = {
  REMEDY_AUTOMATIC: 'repair',
  REMEDY_ON_REQUEST: 'on request',
  REMEDY_NONE: 'none',
};

async function check(session: Session, flags: CheckFlags): Promise<void> {
  const findings: Finding[] = [];
  const progress = new Counted(session);
  let pageToken = '';
  do {
    const page = await session.client.check(
      { poolId: flags.pool, pageSize: 1000, pageToken },
      { deadlineMilliseconds: PAGE_MILLISECONDS },
    );
    findings.push(...page.findings);
    progress.add(page.progress);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  const rows = findings.map((finding) => [
    shortClass(finding.class),
    finding.resourceId || finding.imageName || finding.poolId,
    REMEDIES[finding.remedy] ?? '',
    finding.description,
  ]);
  const text = rows.length === 0 ? 'Nothing differs.\n' : table([['CLASS', 'WHAT', 'REPAIR', 'DIFFERENCE'], ...rows]);
  session.show({ findings, progress: progress.total }, text);
  progress.tell();
  if (findings.length > 0) throw new CommandFailure(EXIT.failed, `${findings.length} differences`);
}

async function repair(session: Session, flags: RepairFlags): Promise<void> {
  const repaired: Repaired[] = [];
  const progress = new Counted(session);
  let pageToken = '';
  let stillHeld = false;
  do {
    const page = await session.client.repair(
      {
        poolId: flags.pool,
        classes: flags.class.map(longClass),
        resourceIds: [...flags.resource],
        validateOnly: flags.dryRun ?? false,
        pageSize: 1000,
        pageToken,
      },
      { deadlineMilliseconds: PAGE_MILLISECONDS },
    );
    repaired.push(...page.repaired);
    progress.add(page.progress);
    stillHeld = page.stillHeld;
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  session.show({ repaired, stillHeld, progress: progress.total }, repairTable(repaired));
  progress.tell();
  if (stillHeld && !flags.dryRun) session.note('The restored store is still held: see docs/operations/recover.md.');
  const open = repaired.filter(
    ({ outcome }) => outcome === 'REPAIR_OUTCOME_FAILED' || outcome === 'REPAIR_OUTCOME_LEFT',
  );
  if (open.length > 0) throw new CommandFailure(EXIT.failed, `${open.length} differences are left`);
}

async function rebuild(session: Session, flags: RebuildFlags): Promise<void> {
  const repaired: Repaired[] = [];
  const unknown: string[] = [];
  const progress = new Counted(session);
  let pageToken = '';
  do {
    const page = await session.client.rebuild(
      { validateOnly: flags.dryRun ?? false, pageToken },
      { deadlineMilliseconds: PAGE_MILLISECONDS },
    );
    repaired.push(...page.repaired);
    unknown.push(...page.unknown);
    progress.add(page.progress);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  const told = unknown.length === 0 ? '' : `\nNot known any more:\n${unknown.map((line) => `- ${line}\n`).join('')}`;
  session.show({ repaired, unknown, progress: progress.total }, `${repairTable(repaired)}${told}`);
  progress.tell();
  const failed = repaired.filter(({ outcome }) => outcome === 'REPAIR_OUTCOME_FAILED');
  if (failed.length > 0) throw new CommandFailure(EXIT.failed, `${failed.length} things could not be taken in`);
}

function repairTable(repaired: readonly Repaired[]): string {
  if (repaired.length === 0) return 'Nothing differs.\n';
  const rows = repaired.map(({ finding, outcome, message }) => [
    outcome.replace('REPAIR_OUTCOME_', '').toLowerCase().replace('_', ' '),
    shortClass(finding?.class ?? ''),
    finding?.resourceId || finding?.imageName || finding?.poolId || '',
    finding?.description ?? '',
    message === '' ? (finding?.remedyDescription ?? '') : message,
  ]);
  return table([['OUTCOME', 'CLASS', 'WHAT', 'DIFFERENCE', 'WHY, OR HOW'], ...rows]);
}

/** What all pages together have looked at. */
class Counted {
  readonly total = { resources: 0, entries: 0, images: 0, foreignImages: 0, busy: 0 };
  readonly #session: Session;

  constructor(session: Session) {
    this.#session = session;
  }

  add(progress: Progress | null): void {
    for (const name of Object.keys(this.total) as (keyof Progress)[]) this.total[name] += Number(progress?.[name] ?? 0);
  }

  tell(): void {
    const { resources, entries, images, foreignImages, busy } = this.total;
    this.#session.note(
      `Looked at ${resources} resources, ${entries} catalogue entries and ${images} images, ${foreignImages} of them foreign.`,
    );
    if (busy > 0) this.#session.note(`${busy} things were being changed all the time: check again.`);
  }
}
