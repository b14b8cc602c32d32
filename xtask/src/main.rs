//! `cargo xtask`: what this repository checks about itself.

#![forbid(unsafe_code)]

mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Tasks of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check layers, unsafe code, file sizes, leftovers and Python imports.
    Tidy {
        /// The repository to check; this one if absent.
        #[arg(long)]
        root: Option<PathBuf>,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().task {
        Task::Tidy { root } => {
            let root = root.map_or_else(repository, Ok)?;
            let report = tidy::run(&root)?;
            print!("{report}");
            Ok(if report.failed() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            })
        }
    }
}

/// The root of the repository that this program was built from.
fn repository() -> Result<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(parent
        .context("xtask lies in a folder of the repository")?
        .to_path_buf())
}
