//! Draws a member's key.

use std::path::Path;

use landfall_protocol::fleet::Fleet;
use landfall_protocol::id::PublicKey;
use serde_json::json;

use super::Report;
use super::exit::Failure;
use crate::config::{self, Program};
use crate::identity::MemberKey;

/// Draws a key into a new file and says what to write into the fleet file.
///
/// # Errors
/// The file exists already or cannot be written.
pub fn to_file(key_file: &Path, program: Program) -> Result<Report, Failure> {
    draw(key_file, "CHANGE-ME", program, None)
}

/// As [`to_file`], with file and name from a daemon's file. The fleet file need not know the
/// member yet, nor be there at all.
///
/// # Errors
/// The daemon's file is wrong, or as [`to_file`].
pub fn for_config(file: &Path, program: Program) -> Result<Report, Failure> {
    let identity = config::load_identity(file)?;
    let fleet = config::load_fleet(&identity.fleet_file).ok();
    draw(&identity.key_file, &identity.name, program, fleet.as_ref())
}

fn draw(
    key_file: &Path,
    name: &str,
    program: Program,
    fleet: Option<&Fleet>,
) -> Result<Report, Failure> {
    let key = MemberKey::generate()?;
    key.save(key_file)?;
    let public = key.public();
    let known = fleet.and_then(|fleet| fleet.member_named(name));
    let entry = match known {
        Some(_) => format!("key = \"{public}\"\n"),
        None => member_entry(name, public, program, fleet),
    };
    let place = match known {
        Some(_) => format!("Give member {name:?} this key in the fleet file of every member:"),
        None => "Add this to the fleet file of every member:".to_owned(),
    };
    let path = key_file.display();
    let text = format!(
        "The secret key is in {path}. It never leaves this machine; without it this member must be \
         added anew.\nThe public key is {public}.\n{place}\n\n{entry}"
    );
    let json = json!({ "public_key": public.to_string(), "key_file": path.to_string() });
    Ok(Report::ok(text, json))
}

fn member_entry(name: &str, key: PublicKey, program: Program, fleet: Option<&Fleet>) -> String {
    let highest = fleet.and_then(|fleet| fleet.members().last());
    let id = highest.map_or(1, |member| member.site.number().saturating_add(1));
    let role = program.role();
    // No default: an address nobody listens at costs every other member an attempt for ever.
    format!(
        "[[member]]
id = {id} # a number that no other member has or ever had
name = \"{name}\"
key = \"{key}\"
addresses = [] # where others reach it, such as \"shore.example:7400\"
role = \"{role}\"
"
    )
}
