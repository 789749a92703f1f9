import type { Role } from '../core/services/types.js';

/*
 * Who may call what: the one table of roles. That a node touches only its own exports and redeems only its own grants is
 * the core's to see to; here it is only said which methods a role may call at all.
 */

const reads: readonly Role[] = ['admin', 'reader'];
const readsOfNodesToo: readonly Role[] = ['admin', 'node', 'reader'];
const nodesToo: readonly Role[] = ['admin', 'node'];
const admins: readonly Role[] = ['admin'];

const storage = '/moorage.v1.StorageControllerService';
const node = '/moorage.v1.NodeService';
const pool = '/moorage.v1.PoolService';
const operation = '/moorage.v1.OperationService';
const event = '/moorage.v1.EventService';
const admin = '/moorage.v1.AdminService';

/** Every method of the API and the roles that may call it. */
export const rolesOfMethod: Readonly<Record<string, readonly Role[]>> = {
  [`${storage}/CreateVolume`]: admins,
  [`${storage}/GetVolume`]: reads,
  [`${storage}/ListVolumes`]: reads,
  [`${storage}/UpdateVolume`]: admins,
  [`${storage}/ExpandVolume`]: admins,
  [`${storage}/DeleteVolume`]: admins,
  [`${storage}/UndeleteVolume`]: admins,
  [`${storage}/CreateSnapshot`]: admins,
  [`${storage}/GetSnapshot`]: reads,
  [`${storage}/ListSnapshots`]: reads,
  [`${storage}/UpdateSnapshot`]: admins,
  [`${storage}/DeleteSnapshot`]: admins,
  [`${storage}/UndeleteSnapshot`]: admins,
  [`${storage}/GrantExport`]: admins,
  [`${storage}/Export`]: nodesToo,
  [`${storage}/Unexport`]: nodesToo,
  [`${storage}/GetExport`]: readsOfNodesToo,
  [`${storage}/ListExports`]: readsOfNodesToo,
  [`${node}/RegisterNode`]: admins,
  [`${node}/GetNode`]: reads,
  [`${node}/ListNodes`]: reads,
  [`${node}/UpdateNode`]: admins,
  [`${node}/RemoveNode`]: admins,
  [`${pool}/CreatePool`]: admins,
  [`${pool}/GetPool`]: reads,
  [`${pool}/ListPools`]: reads,
  [`${pool}/UpdatePool`]: admins,
  [`${pool}/DeletePool`]: admins,
  [`${event}/Watch`]: readsOfNodesToo,
  [`${operation}/GetOperation`]: reads,
  [`${operation}/ListOperations`]: reads,
  [`${operation}/WaitOperation`]: reads,
  [`${operation}/CancelOperation`]: admins,
  [`${admin}/Check`]: admins,
  [`${admin}/Repair`]: admins,
  [`${admin}/Rebuild`]: admins,
  [`${admin}/BackupStore`]: admins,
};

/** Methods that anybody may call who got through the door: they say nothing about volumes. */
const open = /^\/grpc\.(health\.v1\.Health|reflection\.v1(alpha)?\.ServerReflection)\//;

/** Whether the role may call the method. A method that is not in the table: nobody. */
export function mayCall(role: Role, method: string): boolean {
  return open.test(method) || (rolesOfMethod[method]?.includes(role) ?? false);
}
