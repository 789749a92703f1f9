import { join } from 'node:path';
import { developmentDirectory, repositoryDirectory } from '../../test/helpers/cluster.js';

/** The development cluster that `make demo` and `make run` share. */
export const CLUSTER_NAME = 'demo';
/** The pool on that cluster (made with it), and its name in Moorage. */
export const CEPH_POOL = 'moorage';
export const POOL_ID = 'demo';
/** The one node with a libvirt host. */
export const NODE_ID = 'nc-a';

/** The cluster's own folder. */
export const clusterDirectory = join(developmentDirectory, CLUSTER_NAME);

/**
 * Everything of the controller and the node: store, keys, sockets, logs, descriptors. Inside the cluster's folder, because
 * what the store knows is of use with that cluster only: they are deleted together.
 */
export const stateDirectory = join(clusterDirectory, 'moorage');

/** `moorage`, `storage-utils` and `moorage-controller`, for a PATH. */
export const commandDirectory = join(stateDirectory, 'bin');

/** A file of the state folder. */
export const stateFile = (...names: string[]): string => join(stateDirectory, ...names);

/** A program as it was built. */
export const builtProgram = (name: string): string => join(repositoryDirectory, 'dist/bin', `${name}.js`);

export const controllerConfiguration = stateFile('controller.yaml');
export const controllerLog = stateFile('controller.log');
export const nodeKeyFile = stateFile(`${NODE_ID}-keys.json`);
export const endpoint = `unix:${stateFile('api.sock')}`;
