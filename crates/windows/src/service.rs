//! The service: its entry in the service control manager, and the program's side while it runs as one.
//!
//! ```text
//! manager --starts--> `run --service` --> run(): START_PENDING --> body --> Control::running(): RUNNING
//! stop, preshutdown --> STOP_PENDING, with a growing checkpoint while the body drains --> STOPPED
//! ```

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod,
    ServiceInfo, ServiceSidType, ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    self, ServiceControlHandlerResult, ServiceStatusHandle,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};
use windows_sys::Win32::System::Services::{
    ChangeServiceConfig2W, SERVICE_CONFIG_REQUIRED_PRIVILEGES_INFO,
    SERVICE_REQUIRED_PRIVILEGES_INFOW,
};

/// The service's name. Its account and the SID of this account follow from it.
pub const NAME: &str = "IntegrationBridge";

/// The account of the service: a virtual one, without a password, that exists with the service.
pub const ACCOUNT: &str = r"NT SERVICE\IntegrationBridge";

/// The name in the list of services.
const DISPLAY_NAME: &str = "Integration Bridge";

/// The text in the list of services.
const DESCRIPTION: &str = "Connects to a relay, and sends its requests inside this network as far as the local config \
                           allows.";

/// The pauses before the system starts a service that has ended by itself.
const RESTARTS: [Duration; 3] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// After so long without a failure, the next one counts as the first.
const FAILURES_RESET: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the system waits for the drain before it shuts down: the drain of requests, and a margin.
const PRESHUTDOWN: Duration = Duration::from_secs(45);

/// The one privilege that the process keeps: to pass directories without rights in them, which every user has.
const PRIVILEGES: &str = "SeChangeNotifyPrivilege\0\0";

/// How often the manager learns that a start or a stop goes on, and how long it waits for that.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
const PROGRESS_HINT: Duration = Duration::from_secs(10);

/// The stack of the thread that does the work: that of the manager's own thread depends on the system.
const STACK_BYTES: usize = 8 << 20;

/// `ERROR_INVALID_LEVEL`: the system does not know a setting.
const UNKNOWN_SETTING: i32 = 124;

/// `ERROR_SERVICE_EXISTS`, `ERROR_SERVICE_DOES_NOT_EXIST`, `ERROR_SERVICE_MARKED_FOR_DELETE`.
const EXISTS: i32 = 1073;
const DOES_NOT_EXIST: i32 = 1060;
const MARKED_FOR_DELETE: i32 = 1072;

/// `ERROR_SERVICE_DATABASE_LOCKED`, and how long it may last.
const LOCKED: i32 = 1055;
const LOCKED_MAX: Duration = Duration::from_secs(60);

/// The service as the manager shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it does.
    pub state: State,
    /// Its process, while it runs.
    pub process: Option<u32>,
    /// With which code its process has ended; 0 for an orderly stop.
    pub code: u32,
}

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has no process.
    Stopped,
    /// It starts.
    Starting,
    /// It runs.
    Running,
    /// It stops.
    Stopping,
}

/// What the manager starts.
#[derive(Debug)]
pub struct Command<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// Installs the service, or changes the one that exists. It is not started. Returns what this system does not support.
///
/// # Errors
/// The system's error, for example without the rights of an administrator.
pub fn install(command: &Command<'_>, account: &str) -> io::Result<Vec<&'static str>> {
    let manager = manager(ServiceManagerAccess::CREATE_SERVICE)?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: DISPLAY_NAME.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: command.program.to_owned(),
        launch_arguments: command.arguments.clone(),
        dependencies: Vec::new(),
        account_name: Some(account.into()),
        account_password: None,
    };
    // All rights: automatic restarts need that to start the service, too.
    let rights = ServiceAccess::ALL_ACCESS;
    let service = match manager.create_service(&info, rights).map_err(system_error) {
        Err(error) if error.raw_os_error() == Some(EXISTS) => {
            let service = open(rights)?;
            service.change_config(&info).map_err(system_error)?;
            service
        }
        created => created?,
    };
    let actions = RESTARTS.map(|delay| ServiceAction {
        action_type: ServiceActionType::Restart,
        delay,
    });
    let actions = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FAILURES_RESET),
        reboot_msg: None,
        command: None,
        actions: Some(actions.to_vec()),
    };
    let settings = [
        ("a description", service.set_description(DESCRIPTION)),
        ("a delayed start", service.set_delayed_auto_start(true)),
        (
            "automatic restarts",
            service.update_failure_actions(actions),
        ),
        (
            "automatic restarts after an error",
            service.set_failure_actions_on_non_crash_failures(true),
        ),
        (
            "the identity of its account",
            service.set_config_service_sid_info(ServiceSidType::Unrestricted),
        ),
        (
            "a drain before a shutdown",
            service.set_preshutdown_timeout(PRESHUTDOWN),
        ),
    ];
    let mut unsupported = Vec::new();
    for (what, set) in settings {
        note(what, set.map_err(system_error), &mut unsupported)?;
    }
    note(
        "fewer privileges",
        limit_privileges(&service),
        &mut unsupported,
    )?;
    Ok(unsupported)
}

/// Notes a setting that this system does not know.
fn note(
    what: &'static str,
    set: io::Result<()>,
    unsupported: &mut Vec<&'static str>,
) -> io::Result<()> {
    match set {
        Err(error) if error.raw_os_error() == Some(UNKNOWN_SETTING) => {
            unsupported.push(what);
            Ok(())
        }
        set => set,
    }
}

fn limit_privileges(service: &Service) -> io::Result<()> {
    let mut names: Vec<u16> = PRIVILEGES.encode_utf16().collect();
    let info = SERVICE_REQUIRED_PRIVILEGES_INFOW {
        pmszRequiredPrivileges: names.as_mut_ptr(),
    };
    // SAFETY: the service is open, and the list ends with two zeros.
    let is_set = unsafe {
        ChangeServiceConfig2W(
            service.raw_handle(),
            SERVICE_CONFIG_REQUIRED_PRIVILEGES_INFO,
            (&raw const info).cast(),
        )
    };
    match is_set {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Starts the service. Does not wait until it runs. Tries again for a while as long as the manager starts another service,
/// as it does when the machine starts.
///
/// # Errors
/// The system's error.
pub fn start() -> io::Result<()> {
    let none: [&OsStr; 0] = [];
    let service = open(ServiceAccess::START)?;
    let until = Instant::now() + LOCKED_MAX;
    loop {
        match service.start(&none).map_err(system_error) {
            Err(error) if error.raw_os_error() == Some(LOCKED) && Instant::now() < until => {
                std::thread::sleep(PROGRESS_EVERY);
            }
            started => return started,
        }
    }
}

/// Asks the service to stop. Does not wait until it has.
///
/// # Errors
/// The system's error.
pub fn stop() -> io::Result<()> {
    let stopped = open(ServiceAccess::STOP)?.stop();
    stopped.map(|_| ()).map_err(system_error)
}

/// Removes the service from the manager.
///
/// # Errors
/// The system's error.
pub fn remove() -> io::Result<()> {
    match open(ServiceAccess::DELETE)?.delete().map_err(system_error) {
        // Another program has it open; it goes when that program closes it.
        Err(error) if error.raw_os_error() == Some(MARKED_FOR_DELETE) => Ok(()),
        removed => removed,
    }
}

/// Returns the service; `None` if it is not installed.
///
/// # Errors
/// The system's error.
pub fn find() -> io::Result<Option<Found>> {
    let service = match open(ServiceAccess::QUERY_STATUS) {
        Err(error) if error.raw_os_error() == Some(DOES_NOT_EXIST) => return Ok(None),
        opened => opened?,
    };
    let status = service.query_status().map_err(system_error)?;
    Ok(Some(Found {
        state: match status.current_state {
            ServiceState::Stopped => State::Stopped,
            ServiceState::StartPending => State::Starting,
            ServiceState::StopPending => State::Stopping,
            ServiceState::Running
            | ServiceState::ContinuePending
            | ServiceState::PausePending
            | ServiceState::Paused => State::Running,
        },
        process: status.process_id.filter(|process| *process != 0),
        code: match status.exit_code {
            ServiceExitCode::Win32(code) | ServiceExitCode::ServiceSpecific(code) => code,
        },
    }))
}

/// Returns the account and the command line with which the service is installed.
///
/// # Errors
/// The system's error.
pub fn installed_as() -> io::Result<(String, String)> {
    let config = open(ServiceAccess::QUERY_CONFIG)?
        .query_config()
        .map_err(system_error)?;
    let account = config.account_name.unwrap_or_default();
    Ok((
        account.to_string_lossy().into_owned(),
        config.executable_path.to_string_lossy().into_owned(),
    ))
}

fn manager(access: ServiceManagerAccess) -> io::Result<ServiceManager> {
    let access = ServiceManagerAccess::CONNECT | access;
    ServiceManager::local_computer(None::<&str>, access).map_err(system_error)
}

fn open(access: ServiceAccess) -> io::Result<Service> {
    let manager = manager(ServiceManagerAccess::CONNECT)?;
    manager.open_service(NAME, access).map_err(system_error)
}

fn system_error(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        error => io::Error::other(error),
    }
}

/// The manager's handle for reports, as soon as it has started the service.
static HANDLE: OnceLock<ServiceStatusHandle> = OnceLock::new();

/// What the manager wants. True: the service stops.
static STOPS: OnceLock<watch::Sender<bool>> = OnceLock::new();

/// What the service does: its whole work. It returns the exit code.
static BODY: Mutex<Option<Box<dyn FnOnce() -> u8 + Send>>> = Mutex::new(None);

/// Whether a stop was requested, and the number of the last report on a start or a stop.
static IS_STOPPING: AtomicBool = AtomicBool::new(false);
static CHECKPOINT: AtomicU32 = AtomicU32::new(0);

define_windows_service!(service_entry, service_main);

/// Runs `body` as the service. Returns when the service has stopped.
///
/// # Errors
/// The system's error: the manager has not started this process.
pub fn run(body: impl FnOnce() -> u8 + Send + 'static) -> io::Result<()> {
    *BODY.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(body));
    service_dispatcher::start(NAME, service_entry).map_err(system_error)
}

fn service_main(_: Vec<OsString>) {
    STOPS.get_or_init(|| watch::channel(false).0);
    // The handler has no state of its own: the library frees that state with the first request to stop.
    let Ok(handle) = service_control_handler::register(NAME, on_control) else {
        return;
    };
    let _ = HANDLE.set(handle);
    report(ServiceState::StartPending, PROGRESS_HINT, 0);
    std::thread::spawn(report_progress);
    let body = BODY.lock().unwrap_or_else(PoisonError::into_inner).take();
    let code = body.map_or(0, run_body);
    report(ServiceState::Stopped, Duration::ZERO, code);
}

/// Runs the body to its end. A panic, or no memory for its thread, is a failure.
fn run_body(body: Box<dyn FnOnce() -> u8 + Send>) -> u8 {
    let thread = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(body);
    match thread.map(JoinHandle::join) {
        Ok(Ok(code)) => code,
        Ok(Err(_)) | Err(_) => 1,
    }
}

fn on_control(control: ServiceControl) -> ServiceControlHandlerResult {
    match control {
        ServiceControl::Stop | ServiceControl::Preshutdown => {
            IS_STOPPING.store(true, Ordering::SeqCst);
            // Before the return: from then on the manager sends no further request.
            report(ServiceState::StopPending, PROGRESS_HINT, 0);
            if let Some(stops) = STOPS.get() {
                stops.send_replace(true);
            }
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    }
}

/// Reports that a start or a stop goes on. Without it the manager would call the service hung.
fn report_progress() {
    loop {
        std::thread::sleep(PROGRESS_EVERY);
        if IS_STOPPING.load(Ordering::SeqCst) {
            report(ServiceState::StopPending, PROGRESS_HINT, 0);
        } else {
            // Not passed on once the service runs.
            report(ServiceState::StartPending, PROGRESS_HINT, 0);
        }
    }
}

/// Reports a state. The last one is `Stopped`: after it no other is reported.
fn report(state: ServiceState, hint: Duration, code: u8) {
    static LAST: Mutex<Option<ServiceState>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(handle) = HANDLE.get() else {
        return;
    };
    let is_late = match *last {
        Some(ServiceState::Stopped) => true,
        // A start that goes on or ends after the request to stop.
        Some(ServiceState::StopPending) => {
            matches!(state, ServiceState::StartPending | ServiceState::Running)
        }
        // Progress of a start that has just ended.
        Some(ServiceState::Running) => state == ServiceState::StartPending,
        _ => false,
    };
    if is_late {
        return;
    }
    *last = Some(state);
    let is_pending = matches!(
        state,
        ServiceState::StartPending | ServiceState::StopPending
    );
    let _ = handle.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: match state {
            ServiceState::Running => ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN,
            _ => ServiceControlAccept::empty(),
        },
        exit_code: match code {
            0 => ServiceExitCode::NO_ERROR,
            code => ServiceExitCode::ServiceSpecific(code.into()),
        },
        checkpoint: match is_pending {
            true => CHECKPOINT.fetch_add(1, Ordering::SeqCst) + 1,
            false => 0,
        },
        wait_hint: hint,
        process_id: None,
    });
}

/// The manager's side of a service that runs.
#[derive(Debug)]
pub struct Control {
    stops: watch::Receiver<bool>,
    /// The request to stop was returned.
    is_stopped: bool,
}

impl Control {
    /// Returns it; `None` if the manager has not started this process.
    pub fn current() -> Option<Self> {
        HANDLE.get()?;
        Some(Self {
            stops: STOPS.get()?.subscribe(),
            is_stopped: false,
        })
    }

    /// Reports that the service runs.
    pub fn running(&self) {
        report(ServiceState::Running, Duration::ZERO, 0);
    }

    /// Waits until the manager wants the service to stop. Returns once: the manager does not ask a second time. Cancel
    /// safe.
    pub async fn stop(&mut self) {
        if self.is_stopped {
            std::future::pending::<()>().await;
        }
        // An error means that the sender is gone, which lives as long as the process.
        let _ = self.stops.wait_for(|stops| *stops).await;
        self.is_stopped = true;
    }
}
