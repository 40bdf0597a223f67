//! Puts checks into code: reads of the interrupt page where a function begins, and where each loop does. Whatever runs for ever passes one of them again and again: there is no way back in
//! code but a loop, and no other way to run for long than to call.
//!
//! The page is a memory behind all memories that a module has. The guest cannot name it, for its code was validated before it was there.

use std::convert::Infallible;

use wasm_encoder::reencode::{self, Reencode, ReencodeComponent, component_utils};
use wasm_encoder::{
    CodeSection, Component, Function, Instruction, MemArg, MemorySection, MemoryType, Module, SectionId,
};
use wasmparser::{FunctionBody, Operator, Parser, Payload, TypeRef, Validator, WasmFeatures};

/// Pages at most, of an interrupt page: the number by which it is known. No memory of a guest has it; one that says so gets a page more at most, of gigabytes.
pub(crate) const MARK: u64 = 0xa51d;

/// Changed whenever other code comes out: compiled code that was kept is of no use then.
pub(crate) const VERSION: u32 = 1;

type Result<T> = std::result::Result<T, reencode::Error<Infallible>>;

/// A component with checks in all of its modules.
///
/// # Errors
/// Why it is no component that guests may have. What is atomic is refused here, for the engine has to allow it.
pub(crate) fn add(component: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let features = WasmFeatures::default().difference(WasmFeatures::THREADS);
    Validator::new_with_features(features).validate_all(component).map_err(|error| error.to_string())?;
    let mut checked = Component::new();
    Checks::default().parse_component(&mut checked, Parser::new(0), component).map_err(|error| error.to_string())?;
    Ok(checked.finish())
}

/// What the mark means is the host's alone.
fn unmarked(memory: wasmparser::MemoryType) -> MemoryType {
    MemoryType {
        minimum: memory.initial,
        maximum: memory.maximum.map(|most| if most == MARK { MARK + 1 } else { most }),
        memory64: memory.memory64,
        shared: memory.shared,
        page_size_log2: memory.page_size_log2,
    }
}

/// Writes a component again, with checks in its modules.
#[derive(Default)]
struct Checks {
    /// The index of the interrupt page in the module at hand; none where that has no code.
    page: Option<u32>,
    /// Whether that was added.
    is_there: bool,
}

impl ReencodeComponent for Checks {
    fn parse_component_submodule(&mut self, component: &mut Component, parser: Parser, module: &[u8]) -> Result<()> {
        *self = Self { page: memories(module)?, is_there: false };
        component_utils::parse_component_submodule(self, component, parser, module)
    }
}

/// How many memories a module has; none where it has no code.
fn memories(module: &[u8]) -> Result<Option<u32>> {
    let (mut count, mut has_code) = (0, false);
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    count += u32::from(matches!(import?.ty, TypeRef::Memory(_)));
                }
            }
            Payload::MemorySection(memories) => count += memories.count(),
            Payload::CodeSectionStart { count, .. } => has_code = count > 0,
            _ => {}
        }
    }
    Ok(has_code.then_some(count))
}

impl Checks {
    fn add_page(&mut self, memories: &mut MemorySection) {
        let page = MemoryType { minimum: 0, maximum: Some(MARK), memory64: false, shared: false, page_size_log2: None };
        memories.memory(page);
        self.is_there = true;
    }

    /// Whether the module at hand lacks its page.
    fn lacks_page(&self) -> bool {
        self.page.is_some() && !self.is_there
    }

    /// An atomic read: others are merged, or taken out of loops, by the compiler.
    fn check(&self, function: &mut Function) {
        let Some(page) = self.page else { return };
        let place = MemArg { offset: 0, align: 2, memory_index: page };
        function.instruction(&Instruction::I32Const(0));
        function.instruction(&Instruction::I32AtomicLoad(place));
        function.instruction(&Instruction::Drop);
    }
}

impl Reencode for Checks {
    type Error = Infallible;

    fn memory_type(&mut self, memory: wasmparser::MemoryType) -> Result<MemoryType> {
        Ok(unmarked(memory))
    }

    fn parse_memory_section(
        &mut self,
        memories: &mut MemorySection,
        section: wasmparser::MemorySectionReader<'_>,
    ) -> Result<()> {
        reencode::utils::parse_memory_section(self, memories, section)?;
        if self.lacks_page() {
            self.add_page(memories);
        }
        Ok(())
    }

    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        _: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<()> {
        use SectionId::{Code, Data, DataCount, Element, Export, Global, Start, Tag};
        let is_behind = before
            .is_none_or(|before| matches!(before, Tag | Global | Export | Start | Element | DataCount | Code | Data));
        if is_behind && self.lacks_page() {
            let mut memories = MemorySection::new();
            self.add_page(&mut memories);
            module.section(&memories);
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<()> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        self.check(&mut function);
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            let is_loop = matches!(operator, Operator::Loop { .. });
            function.instruction(&self.instruction(operator)?);
            if is_loop {
                self.check(&mut function);
            }
        }
        code.function(&function);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each function and each loop of a component's modules begins with a check; how many there are.
    fn checked(component: &[u8]) -> usize {
        let mut checks = 0;
        let mut pages = Vec::new();
        for payload in Parser::new(0).parse_all(component) {
            match payload.unwrap() {
                Payload::ModuleSection { unchecked_range, .. } => {
                    // Its own page is the last memory.
                    let module = &component[unchecked_range];
                    pages.push(memories(module).unwrap().map(|count| count - 1));
                }
                Payload::CodeSectionEntry(body) => {
                    let page = pages.last().unwrap().unwrap();
                    let operators: Vec<_> =
                        body.get_operators_reader().unwrap().into_iter().map(|operator| operator.unwrap()).collect();
                    let begins =
                        operators.iter().enumerate().filter(|(_, operator)| matches!(operator, Operator::Loop { .. }));
                    for at in std::iter::once(0).chain(begins.map(|(at, _)| at + 1)) {
                        assert!(matches!(operators[at], Operator::I32Const { value: 0 }), "{operators:?}");
                        assert!(
                            matches!(operators[at + 1], Operator::I32AtomicLoad { memarg } if memarg.memory == page)
                        );
                        checks += 1;
                    }
                }
                _ => {}
            }
        }
        checks
    }

    #[test]
    fn every_function_and_every_loop_has_a_check() {
        let text = r#"(component
            (core module $a
                (import "b" "memory" (memory 1))
                (memory 0 1)
                (global i32 (i32.const 0))
                (func (export "f") (param i32) (local i64) (loop $l (loop (br_if $l (local.get 0)))) (call 1))
                (func (block (br 0))))
            (core module (func (result i32) (loop (result i32) i32.const 7)))
            (core module (memory (export "memory") 1))
            (component (core module (func (loop br 0)))))"#;
        let made = add(&wat::parse_str(text).unwrap()).unwrap();
        Validator::new_with_features(WasmFeatures::all()).validate_all(&made).unwrap();
        assert_eq!(checked(&made), 2 + 2 + 2 + 2);
    }

    #[test]
    fn real_guests_have_one_too() {
        let module = include_bytes!("../../../../tests/guests/upper.wasm");
        let component = crate::componentize::componentize(module).unwrap();
        let made = add(&component).unwrap();
        assert!(checked(&made) > 5);
    }

    #[test]
    fn what_is_atomic_is_refused_and_the_mark_is_no_guests() {
        let atomic = "(component (core module (memory 1) (func (drop (i32.atomic.load (i32.const 0))))))";
        assert!(add(&wat::parse_str(atomic).unwrap()).unwrap_err().contains("threads"));
        let marked = format!("(component (core module (memory 0 {MARK}) (func)))");
        let made = add(&wat::parse_str(marked).unwrap()).unwrap();
        let mut most = Vec::new();
        for payload in Parser::new(0).parse_all(&made) {
            if let Payload::MemorySection(section) = payload.unwrap() {
                most.extend(section.into_iter().map(|memory| memory.unwrap().maximum.unwrap()));
            }
        }
        assert_eq!(most, [MARK + 1, MARK]);
    }
}
