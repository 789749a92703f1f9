import { type Command, Option } from 'commander';
import { type Pool, pages } from '../../client/index.js';
import { type CommandContext, calling, withSession } from '../context.js';
import { EXIT_CODE_HELP } from '../exit-codes.js';
import { type LabelFlags, labelling, updateFields } from '../labels.js';
import { formatTags, formatTime, properties, table, toJson } from '../output.js';
import type { CommonFlags } from '../session.js';
import { collectTag, formatSize, parseDuration, shortState } from '../values.js';
import { changing, mutation } from './volume.js';

interface CreateFlags extends CommonFlags {
  readonly token?: string;
  readonly validateOnly?: boolean;
  readonly cluster: string;
  readonly cephPool: string;
  readonly access: 'managed' | 'keyring';
  readonly keyringUser: string;
  readonly isolate?: boolean;
  readonly undeleteWindow?: number;
  readonly tag: Record<string, string>;
}

interface MutationFlags extends CommonFlags {
  readonly token?: string;
  readonly validateOnly?: boolean;
}

interface InitFlags {
  readonly cephConf: string;
  readonly adminUser: string;
  readonly adminKeyring: string;
  readonly dataUser: string;
  readonly dataKeyring: string;
  readonly fenceUser: string;
  readonly fenceKeyring: string;
  readonly json?: boolean;
}

/** `moorage pool …` */
export function addPoolCommands(program: Command, context: CommandContext): void {
  const group = program.command('pool').description('pools: places where volumes live');

  changing(
    calling(
      group.command('create').description('make a pool known that is set up on its storage').argument('<name>'),
      `moorage pool create ssd --cluster main --ceph-pool moorage
       moorage pool create old --cluster main --ceph-pool rbd --access keyring --keyring-user libvirt`,
    ),
  )
    .requiredOption('--cluster <name>', "the cluster's name in the controller's configuration")
    .requiredOption('--ceph-pool <name>', 'the Ceph pool')
    .addOption(
      new Option('--access <kind>', 'how nodes get at images: a user for each export, or keyrings that you hand out')
        .choices(['managed', 'keyring'])
        .default('managed'),
    )
    .option('--keyring-user <name>', 'the Ceph user (without "client.") of those keyrings', '')
    .option('--isolate', 'copy each snapshot whole, so that no node reads an image that another may write')
    .option('--undelete-window <duration>', 'how long what is deleted can be undeleted; 7d unless given', parseDuration)
    .option('--tag <key=value>', 'a tag; may be repeated', collectTag, {})
    .action(async (poolId: string, flags: CreateFlags) =>
      withSession(context, flags, async (session) => {
        const { pool } = await session.client.createPool({
          ...mutation(flags),
          poolId,
          rbd: {
            cluster: flags.cluster,
            cephPool: flags.cephPool,
            access: flags.access === 'keyring' ? 'RBD_ACCESS_KEYRING' : 'RBD_ACCESS_MANAGED',
            keyringUser: flags.keyringUser,
            isolate: flags.isolate ?? false,
          },
          ...(flags.undeleteWindow !== undefined && { undeleteWindowSeconds: Math.round(flags.undeleteWindow) }),
          tags: flags.tag,
        });
        session.show(pool, describePool(pool));
      }),
    );

  calling(group.command('get').description('show a pool').argument('<name>'), 'moorage pool get ssd').action(
    async (poolId: string, flags: CommonFlags) =>
      withSession(context, flags, async (session) => {
        const { pool } = await session.client.getPool({ poolId });
        session.show(pool, describePool(pool));
      }),
  );

  calling(group.command('list').description('list pools by name'), 'moorage pool list').action(
    async (flags: CommonFlags) =>
      withSession(context, flags, async (session) => {
        const pools: Pool[] = [];
        const read = (pageToken: string) => session.client.listPools({ pageSize: 1000, pageToken });
        for await (const page of pages(read)) pools.push(...page.pools);
        const head = ['NAME', 'BACKEND', 'HEALTH', 'FREE', 'CAPACITY', 'CLUSTER', 'CEPH POOL', 'ACCESS'];
        const rows = pools.map((pool) => [
          pool.id,
          pool.backend,
          healthOf(pool),
          formatSize(pool.freeBytes),
          formatSize(pool.capacityBytes),
          pool.rbd?.cluster ?? '',
          pool.rbd?.cephPool ?? '',
          accessOf(pool),
        ]);
        session.show(pools, table([head, ...rows]));
      }),
  );

  labelling(
    changing(
      calling(
        group.command('update').description("change a pool's tags and undelete window").argument('<name>'),
        'moorage pool update ssd --undelete-window 14d --tag tier=gold',
      ),
    ),
  )
    .option('--undelete-window <duration>', 'how long what is deleted from now on can be undeleted', parseDuration)
    .action(async (poolId: string, flags: MutationFlags & LabelFlags & { undeleteWindow?: number }) =>
      withSession(context, flags, async (session) => {
        const { pool } = await session.client.updatePool(
          {
            ...mutation(flags),
            ...updateFields(flags, flags.undeleteWindow === undefined ? [] : ['undelete_window_seconds']),
            poolId,
            undeleteWindowSeconds: Math.round(flags.undeleteWindow ?? 0),
          },
          session.patient,
        );
        session.show(pool, describePool(pool));
      }),
    );

  changing(
    calling(
      group
        .command('delete')
        .description('forget a pool in which there is nothing; its storage is left as it is')
        .argument('<name>'),
      'moorage pool delete ssd',
    ),
  ).action(async (poolId: string, flags: MutationFlags) =>
    withSession(context, flags, async (session) => {
      const { operationId } = await session.client.deletePool({ ...mutation(flags), poolId }, session.patient);
      await session.finish(operationId);
      session.show({ id: poolId }, '');
      session.note(flags.validateOnly ? `${poolId} could be deleted` : `${poolId} is deleted`);
    }),
  );

  group
    .command('init')
    .description("set a Ceph pool up with an administrator's keyring: its tag, and the controller's two users")
    .argument('<ceph-pool>', 'the Ceph pool; it must exist')
    .option('--ceph-conf <file>', "the cluster's ceph.conf", '/etc/ceph/ceph.conf')
    .option('--admin-user <name>', 'the administrator, without "client."', 'admin')
    .option(
      '--admin-keyring <file>',
      "the administrator's keyring; used here and kept nowhere",
      '/etc/ceph/ceph.client.admin.keyring',
    )
    .option('--data-user <name>', 'the user that works on images', 'moorage-data')
    .option(
      '--data-keyring <file>',
      'where its keyring is written (0600)',
      '/etc/ceph/ceph.client.moorage-data.keyring',
    )
    .option('--fence-user <name>', 'the user that cuts clients off', 'moorage-fence')
    .option(
      '--fence-keyring <file>',
      'where its keyring is written (0600)',
      '/etc/ceph/ceph.client.moorage-fence.keyring',
    )
    .option('--json', 'print JSON on stdout')
    .addHelpText('after', `\nExample:\n  moorage pool init moorage --ceph-conf /etc/ceph/ceph.conf\n${EXIT_CODE_HELP}`)
    .action(async (cephPool: string, flags: InitFlags) => {
      const result = await context.initialisePool({
        configurationFile: flags.cephConf,
        adminUser: flags.adminUser,
        adminKeyring: flags.adminKeyring,
        cephPool,
        dataUser: flags.dataUser,
        dataKeyringFile: flags.dataKeyring,
        fenceUser: flags.fenceUser,
        fenceKeyringFile: flags.fenceKeyring,
      });
      const text = properties([
        ['cluster', result.fsid],
        ['pools', result.pools.join(' ')],
        ['users made', result.usersMade.join(' ')],
        ['keyrings', `${flags.dataKeyring} ${flags.fenceKeyring}`],
      ]);
      context.stdout.write(flags.json ? `${JSON.stringify(toJson(result), undefined, 2)}\n` : text);
    });
}

function healthOf(pool: Pool): string {
  return pool.health === 'POOL_HEALTH_UNSPECIFIED' ? 'unknown' : shortState(pool.health);
}

function accessOf(pool: Pool): string {
  return pool.rbd?.access === 'RBD_ACCESS_KEYRING' ? `keyring of ${pool.rbd.keyringUser}` : 'managed';
}

function describePool(pool: Pool | null): string {
  if (pool === null) return '';
  return properties([
    ['name', pool.id],
    ['backend', pool.backend],
    ['health', healthOf(pool)],
    ['why', pool.statusMessage],
    ['free', `${formatSize(pool.freeBytes)} of ${formatSize(pool.capacityBytes)}`],
    ['cluster', pool.rbd?.cluster ?? ''],
    ['ceph pool', pool.rbd?.cephPool ?? ''],
    ['access', accessOf(pool)],
    ['isolated', pool.rbd?.isolate === true ? 'yes' : 'no'],
    ['undelete window', `${pool.undeleteWindowSeconds} s`],
    ['tags', formatTags(pool.tags)],
    ['created', formatTime(pool.createTime)],
  ]);
}
