//! A new migration is a reason to build anew.
fn main() {
    for folder in ["migrations", "bridge", "families"] {
        println!("cargo:rerun-if-changed=../{folder}");
    }
}
