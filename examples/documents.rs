//! Writes what is generated from the command line's definitions: the marked parts of man/df2redis.8, and the
//! completions in packaging/completions. `make man` runs it; tests/manual.rs fails where it would change a file.

#[path = "documents/generate.rs"]
mod generate;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let written = generate::documents(root).and_then(|documents| {
        for document in documents {
            let path = root.join(&document.path);
            std::fs::write(&path, document.text)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        Ok(())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("documents: {error}");
            ExitCode::FAILURE
        }
    }
}
