//! Writes the man pages and the completions of the command line to a directory that is laid out as `/usr/local/share`:
//! `pages DIRECTORY`. A program of its own, so that what writes them is not shipped.
#![allow(missing_docs, unreachable_pub, reason = "a program has no outside")]

use std::fs::create_dir_all;
use std::path::Path;

use clap_complete::Shell;

fn main() -> anyhow::Result<()> {
    write(Path::new(&std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: pages DIRECTORY"))?))
}

pub fn write(share: &Path) -> anyhow::Result<()> {
    let man = share.join("man/man1");
    create_dir_all(&man)?;
    clap_mangen::generate_to(ec2_ipam::cli::command(), &man)?;
    for (shell, folder) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/site-functions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        let folder = share.join(folder);
        create_dir_all(&folder)?;
        let file = clap_complete::generate_to(shell, &mut ec2_ipam::cli::command(), "ec2-ipam", &folder)?;
        // bash looks for a file that is called as the command is.
        if shell == Shell::Bash {
            std::fs::rename(file, folder.join("ec2-ipam"))?;
        }
    }
    Ok(())
}
