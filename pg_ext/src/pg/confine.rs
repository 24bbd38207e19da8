//! The confinement of a handler: only rows, notifications and transaction locks outlive its call.
//!
//! A setting, a temporary object, a cursor, a prepared statement or a deferred trigger that lived longer would affect,
//! or run as, the next user of the session. Settings are undone as PostgreSQL undoes those of a maintenance command (a
//! nest level of its own that is rolled back). Deferred triggers and constraints run inside the call, as the handler's
//! role. Everything else of that kind is refused while a handler runs: commands by `ProcessUtility_hook`, session locks
//! by `object_access_hook`.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use pgrx::pg_sys::errcodes::PgSqlErrorCode as Code;
use pgrx::{pg_guard, pg_sys};

use crate::error::raise;

finfo!(pg_finfo_settle_handler);

/// The phase of a handler's call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No handler runs.
    Outside,
    Handling,
    /// The deferred triggers of the handler run, and can defer nothing more.
    Settling,
}

thread_local! {
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Outside) };
    static HOOKS: Cell<Option<Hooks>> = const { Cell::new(None) };
}

/// The hooks that were set before ours.
#[derive(Clone, Copy)]
struct Hooks {
    utility: pg_sys::ProcessUtility_hook_type,
    access: pg_sys::object_access_hook_type,
}

/// Ends the confinement, also where the call raises an error.
struct Confinement;

impl Drop for Confinement {
    fn drop(&mut self) {
        PHASE.set(Phase::Outside);
    }
}

/// Runs `call`, which calls a handler, so that the state of the session is unchanged afterwards.
///
/// Triggers that the transaction has deferred so far run first, as the role that would run them at COMMIT, and not as
/// the handler's. If `call` raises an error, the abort that follows undoes the settings.
pub fn confined<T>(call: impl FnOnce() -> T) -> T {
    install_hooks();
    settle_as_outer_user();
    defer_constraints(true);
    // SAFETY: the nest level is closed below, or by the abort of the transaction or subtransaction.
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    PHASE.set(Phase::Handling);
    let confinement = Confinement;
    let answer = call();
    drop(confinement);
    // SAFETY: the level was opened above; levels within it ended with the functions and subtransactions of the call.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    defer_constraints(false);
    answer
}

/// `sluice.settle_handler()`: runs the handler's deferred triggers. `sluice.call_handler` calls it last, in the role and
/// subtransaction of the handler; a handler that calls it itself merely can no longer defer anything.
///
/// # Safety
/// PostgreSQL calls it, without arguments.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn settle_handler(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    if PHASE.get() == Phase::Handling {
        PHASE.set(Phase::Settling);
    }
    defer_constraints(false);
    pg_sys::Datum::from(0usize)
}

/// SET CONSTRAINTS ALL, without a command that a hook could refuse.
fn defer_constraints(deferred: bool) {
    let mut all = pg_sys::ConstraintsSetStmt {
        type_: pg_sys::NodeTag::T_ConstraintsSetStmt,
        constraints: ptr::null_mut(),
        deferred,
    };
    // SAFETY: the statement is only read; an empty list means all constraints.
    unsafe { pg_sys::AfterTriggerSetState(&raw mut all) };
}

fn settle_as_outer_user() {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: both are written; the outer user is the one whose role COMMIT would have. Where a trigger raises an error the
    // abort restores user and context.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        pg_sys::SetUserIdAndSecContext(pg_sys::GetOuterUserId(), context);
    }
    defer_constraints(false);
    // SAFETY: as they were.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
}

fn install_hooks() {
    if HOOKS.get().is_some() {
        return;
    }
    // SAFETY: hooks are plain variables of this backend's only thread; ours call those that were there before.
    unsafe {
        HOOKS.set(Some(Hooks {
            utility: pg_sys::ProcessUtility_hook,
            access: pg_sys::object_access_hook,
        }));
        pg_sys::ProcessUtility_hook = Some(process_utility);
        pg_sys::object_access_hook = Some(access_object);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    let phase = PHASE.get();
    // SAFETY: PostgreSQL hands over a statement whose utilityStmt is set.
    if phase != Phase::Outside && !unsafe { is_allowed((*statement).utilityStmt, phase) } {
        // SAFETY: the same; a command's name is a constant of PostgreSQL.
        let command = unsafe {
            let tag = pg_sys::CreateCommandTag((*statement).utilityStmt);
            CStr::from_ptr(pg_sys::GetCommandTagName(tag))
        };
        refuse(&command.to_string_lossy());
    }
    let next = HOOKS.get().and_then(|hooks| hooks.utility);
    // SAFETY: the arguments are handed on as they came.
    unsafe {
        next.unwrap_or(standard_utility)(
            statement,
            query,
            read_only_tree,
            context,
            params,
            environment,
            destination,
            completion,
        );
    }
}

#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn standard_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are handed on as they came.
    unsafe {
        pg_sys::standard_ProcessUtility(
            statement,
            query,
            read_only_tree,
            context,
            params,
            environment,
            destination,
            completion,
        );
    }
}

/// Commands whose only lasting effects are rows and notifications, or effects that are undone or checked anyway.
/// EXPLAIN is not among them, because it can create a table.
///
/// # Safety
/// `command` is a statement as the parser made it.
unsafe fn is_allowed(command: *mut pg_sys::Node, phase: Phase) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; the tag says which type the node has.
    unsafe {
        match (*command).type_ {
            T_VariableSetStmt | T_VariableShowStmt | T_DoStmt | T_CallStmt | T_CopyStmt
            | T_LockStmt | T_TruncateStmt | T_NotifyStmt | T_FetchStmt | T_ClosePortalStmt => true,
            T_ConstraintsSetStmt => phase == Phase::Handling,
            T_DeclareCursorStmt => {
                let cursor = command.cast::<pg_sys::DeclareCursorStmt>();
                (*cursor).options as u32 & pg_sys::CURSOR_OPT_HOLD == 0
            }
            _ => false,
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn access_object(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    details: *mut c_void,
) {
    let is_call = access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE;
    if is_call && PHASE.get() != Phase::Outside && is_session_lock(object.to_u32()) {
        refuse("locks of the session; take pg_advisory_xact_lock");
    }
    if let Some(next) = HOOKS.get().and_then(|hooks| hooks.access) {
        // SAFETY: the arguments are handed on as they came.
        unsafe { next(access, class, object, part, details) };
    }
}

/// Whether this function acquires or releases a session-level advisory lock.
fn is_session_lock(function: u32) -> bool {
    (pg_sys::F_PG_ADVISORY_LOCK_INT8..=pg_sys::F_PG_ADVISORY_UNLOCK_ALL).contains(&function)
}

fn refuse(what: &str) -> ! {
    raise(
        Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("a handler may not use {what}: of what it does only rows may outlive its call"),
    )
}

/// Closes a cursor of this transaction, if it is still open.
pub fn close_cursor(name: &str) {
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: the name ends with a zero byte; a portal that is found is open and not the one that runs.
    unsafe {
        let portal = pg_sys::SPI_cursor_find(name.as_ptr());
        if !portal.is_null() {
            pg_sys::SPI_cursor_close(portal);
        }
    }
}
