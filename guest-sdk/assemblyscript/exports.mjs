// Gives exports the names of the contract, which no identifier can have.
const NAMES = {
  sluice_init: 'sluicegate:plugin/lifecycle@1.1.0#init',
  sluice_process: 'sluicegate:plugin/batch@1.1.0#process',
  sluice_version: 'sluicegate:plugin/versioned-state@1.1.0#version',
  sluice_migrate: 'sluicegate:plugin/versioned-state@1.1.0#migrate',
  sluice_realloc: 'cabi_realloc',
};

export default class {
  afterCompile(module) {
    for (const [own, name] of Object.entries(NAMES)) {
      module.removeExport(own);
      module.addFunctionExport(`build/sdk/sluice/${own}`, name);
    }
  }
}
