import type { Role } from '../core/services/types.js';

/*
 * Who may call what: the one table of roles. That a node touches only its own exports and redeems only its own grants is
 * the core's to see to; here it is only said which methods a role may call at all.
 */

/** What the table says of one method. */
export interface MethodRule {
  readonly roles: readonly Role[];
  /** Whether it changes anything: then each call of it is in the audit log. */
  readonly changes: boolean;
}

const reads: MethodRule = { roles: ['admin', 'reader'], changes: false };
const readsOfNodesToo: MethodRule = { roles: ['admin', 'node', 'reader'], changes: false };
const checks: MethodRule = { roles: ['admin'], changes: false };
const nodesToo: MethodRule = { roles: ['admin', 'node'], changes: true };
const enrolling: MethodRule = { roles: ['admin', 'none'], changes: true };
const admins: MethodRule = { roles: ['admin'], changes: true };

const storage = '/moorage.v1.StorageControllerService';
const node = '/moorage.v1.NodeService';
const pool = '/moorage.v1.PoolService';
const operation = '/moorage.v1.OperationService';
const event = '/moorage.v1.EventService';
const admin = '/moorage.v1.AdminService';

/** Every method of the API, the roles that may call it, and whether it changes anything. */
export const methodRules: Readonly<Record<string, MethodRule>> = {
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
  [`${storage}/RevokeGrant`]: admins,
  [`${storage}/Export`]: nodesToo,
  [`${storage}/Unexport`]: nodesToo,
  [`${storage}/GetExport`]: readsOfNodesToo,
  [`${storage}/ListExports`]: readsOfNodesToo,
  [`${node}/RegisterNode`]: admins,
  [`${node}/GetNode`]: reads,
  [`${node}/ListNodes`]: reads,
  [`${node}/UpdateNode`]: admins,
  [`${node}/RemoveNode`]: admins,
  [`${node}/CreateEnrollmentToken`]: admins,
  [`${node}/Enroll`]: enrolling,
  [`${node}/RotateNodeKey`]: nodesToo,
  [`${node}/FenceNode`]: admins,
  [`${node}/UnfenceNode`]: admins,
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
  [`${admin}/Check`]: checks,
  [`${admin}/Repair`]: admins,
  [`${admin}/Rebuild`]: admins,
  [`${admin}/BackupStore`]: admins,
};

/** Methods that anybody may call who got through the door: they say nothing about volumes. */
const open = /^\/grpc\.(health\.v1\.Health|reflection\.v1(alpha)?\.ServerReflection)\//;

/** Whether the role may call the method. A method that is not in the table: nobody. */
export function mayCall(role: Role, method: string): boolean {
  return open.test(method) || (methodRules[method]?.roles.includes(role) ?? false);
}

/** Whether a call of the method changes anything. One that is not in the table is taken for one that does. */
export function isChange(method: string): boolean {
  return !open.test(method) && (methodRules[method]?.changes ?? true);
}
