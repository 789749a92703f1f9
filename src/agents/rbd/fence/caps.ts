/*
 * The rights of an export's own user: that image, what it reads of its ancestors, and nothing else. They are what QEMU and
 * librbd need for images with layering, exclusive-lock and deep-flatten, found by measuring. Never "pool=" in them: with it
 * a node could destroy any snapshot of the pool. Never "rw" on data without "x": a copy-up would be refused and the empty
 * write after it pass.
 */

/**
 * The names of exports' users begin with this; no other user of the cluster's may. Without a dot, because libvirt's schema
 * does not take one in a user's name (docs/decisions/0007-names-of-access-users.md).
 */
export const ACCESS_USER_PREFIX = 'moorage-exp-';

/** The cephx user of an export, without "client.". */
export function accessUser(exportId: string): string {
  return `moorage-${exportId}`;
}

/** An image as the rights name it. */
export interface CapsImage {
  readonly name: string;
  readonly backendId: string;
}

/**
 * A node may cut off one client, by its exact address and random nonce, which it can know only of those that hold its own
 * image. Without that right a guest whose lock's owner died elsewhere gets write errors.
 */
const MON_WRITER =
  'profile simple-rados-client, allow command "osd blocklist" with blocklistop=add addr regex "^[^/]+:0/[1-9][0-9]*$"';
const MON_READER = 'profile simple-rados-client';

/**
 * Monitor and OSD rights of an export's user, as `auth get-or-create` takes them: pairs of service and rights.
 * @param ancestors every image below, the nearest first
 */
export function accessCaps(image: CapsImage, ancestors: readonly CapsImage[], readOnly: boolean): string[] {
  const own = `rbd_header.${image.backendId}`;
  const grants = [
    // The OSD tries them in this order for each request: what guests do most stands first.
    grant(`rbd_data.${image.backendId}.`, readOnly ? 'r' : 'rwx'),
    ...ancestors.map((each) => grant(`rbd_data.${each.backendId}.`, 'r')),
    // To watch is to write, and QEMU watches what it only reads, too (it opens every image for writing).
    grant(own, 'rw class-read'),
    ...(readOnly ? [] : [grant(own, 'class lock')]),
    grant(`rbd_id.${image.name}`, 'r class-read'),
    ...ancestors.map((each) => grant(`rbd_header.${each.backendId}`, 'class-read')),
    grant('rbd_info', 'class rbd metadata_list'),
    grant('rbd_directory', 'class rbd dir_get_name'),
    // Without it an image with an ancestor in the trash does not open.
    grant('rbd_trash', 'class rbd trash_get'),
  ];
  return ['mon', readOnly ? MON_READER : MON_WRITER, 'osd', grants.join(', ')];
}

function grant(prefix: string, rights: string): string {
  return `allow object_prefix ${prefix} ${rights}`;
}

/** Object whose omap lists the exports that have, or may have, a user of their own. No node can reach it. */
export const ACCESS_OBJECT = 'moorage.access';
/** Objects with this prefix never exist: the fence agent asks for them to hear from every OSD. */
export const PROBE_PREFIX = 'moorage.probe.';

/** Rights of the controller's user "data": all on its pools, and on the monitors none but to be a client. */
export function dataCaps(pools: readonly string[]): string[] {
  return ['mon', 'profile simple-rados-client', 'osd', pools.map((pool) => `profile rbd pool=${pool}`).join(', ')];
}

// The rights of exports' users as this user may give them: monitor rights of exactly the two forms above, OSD rights by
// object prefix only. The dots stand for quotation marks, which cannot be written inside the monitors' rules.
const GRANTABLE_MON =
  '^profile simple-rados-client(, allow command .osd blocklist. with blocklistop=add addr regex .[^ ]+.)?$';
const GRANTABLE_OSD = '^allow object_prefix .*';

/**
 * Rights of the controller's user "fence": cutting clients off, the exports' users under one prefix, the locks that
 * clients left, and seeing who has an image open. It reads no data.
 */
export function fenceCaps(pools: readonly string[]): string[] {
  const users = `entity prefix "client.${ACCESS_USER_PREFIX}"`;
  const grantable = `${users} caps_mon regex "${GRANTABLE_MON}" caps_osd regex "${GRANTABLE_OSD}"`;
  const mon = [
    'profile rbd',
    'allow command "osd blocklist"',
    'allow command "sessions"',
    `allow command "auth get" with ${users}`,
    `allow command "auth del" with ${users}`,
    `allow command "auth get-or-create" with ${grantable}`,
    `allow command "auth caps" with ${grantable}`,
  ];
  const osd = pools.flatMap((pool) => [
    // Who holds the lock of an image, and breaking it.
    `allow pool=${pool} object_prefix rbd_header. class lock`,
    // The id of one whose making was cut short: only its name is on record.
    `allow pool=${pool} object_prefix rbd_id. r`,
    // What opening an image read-only needs, to see who watches it.
    `allow pool=${pool} object_prefix rbd_header. r class-read`,
    `allow pool=${pool} object_prefix rbd_info r class-read`,
    `allow pool=${pool} object_prefix rbd_directory class-read`,
    `allow pool=${pool} object_prefix rbd_trash class-read`,
    `allow pool=${pool} object_prefix ${PROBE_PREFIX} r`,
    `allow pool=${pool} object_prefix ${ACCESS_OBJECT} rw`,
  ]);
  return ['mon', mon.join(', '), 'osd', osd.join(', ')];
}
