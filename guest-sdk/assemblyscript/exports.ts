// What a plugin exports: the functions of the contract.
export { sluice_init, sluice_process, sluice_version, sluice_migrate, sluice_realloc } from "./sluice";
