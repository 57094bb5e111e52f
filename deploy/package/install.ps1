<#
.SYNOPSIS
Installs the bridge of this archive. To upgrade, run it again: it never overwrites a config.

.DESCRIPTION
As administrator:   program in %ProgramFiles%, config and data in %ProgramData%, which only administrators and the
                    service may read; a service that is installed is stopped and started again.
As another user:    everything in %LOCALAPPDATA%; the command that adds the service is printed and saved.

Nothing is started that is not paired. Run it as:
  powershell -NoProfile -ExecutionPolicy Bypass -File install.ps1

.PARAMETER Program
The directory for the program.

.PARAMETER User
Install for this user alone, also as administrator.

.PARAMETER Uninstall
Remove the service and the program. Config and data stay.
#>
# It works with PowerShell 2.0, which Windows Server 2008 R2 has.
param(
    [string]$Program = '',
    [switch]$User,
    [switch]$Uninstall
)

$ErrorActionPreference = 'Stop'
$name = 'Integration Bridge'
$exe = 'integration-bridge.exe'
$service = 'IntegrationBridge'
# By number, because the names of groups are translated: the system, administrators, and the account of the service,
# which Windows derives from the service's name.
$trusted = '*S-1-5-18', '*S-1-5-32-544'
$account = '*S-1-5-80-3194487496-1709499389-4189408156-3052694930-114291806'

function Fail([string]$text) {
    [Console]::Error.WriteLine("install.ps1: $text")
    exit 1
}

function Say([string]$text = '') {
    Write-Output $text
}

# Runs a program, and fails with its last lines if it fails.
function Invoke-Checked([string]$file, [string[]]$arguments) {
    # Redirected texts are no errors of this script.
    $ErrorActionPreference = 'Continue'
    $written = & $file $arguments 2>&1
    if ($LASTEXITCODE -ne 0) {
        Fail "$file failed with the exit code ${LASTEXITCODE}: $written"
    }
}

# Fails for a directory of an ordinary user: every user may make directories in %ProgramData%, and an owner may change the
# list again.
function Assert-Owner([string]$directory) {
    $owner = [IO.Directory]::GetAccessControl($directory).GetOwner([Security.Principal.SecurityIdentifier]).Value
    if ($trusted -notcontains ('*' + $owner) -and $owner -ne $identity.User.Value) {
        Fail "$directory belongs to another user: remove it, or take it over with takeown /A /R /F `"$directory`""
    }
}

# Replaces the list of a directory: administrators write, the service reads, no other account has access.
function Protect-Directory([string]$directory) {
    $rights = @($directory, '/inheritance:r', '/grant:r')
    foreach ($one in $trusted) {
        $rights += "${one}:(OI)(CI)F"
    }
    $rights += "${account}:(OI)(CI)RX"
    Invoke-Checked 'icacls.exe' ($rights + '/q')
}

# Copies a file over one that may be running: a running program can be renamed, and not replaced.
function Copy-Program([string]$from, [string]$to) {
    $old = "$to.old"
    if (Test-Path -LiteralPath $old) {
        Remove-Item -LiteralPath $old -Force
    }
    if (Test-Path -LiteralPath $to) {
        Move-Item -LiteralPath $to -Destination $old
    }
    try {
        Copy-Item -LiteralPath $from -Destination $to
    } catch {
        if (Test-Path -LiteralPath $old) {
            Move-Item -LiteralPath $old -Destination $to -Force
        }
        throw
    }
    # It stays if it still runs; the next run removes it.
    Remove-Item -LiteralPath $old -Force -ErrorAction SilentlyContinue
}

$here = Split-Path -Parent $MyInvocation.MyCommand.Definition
$source = Join-Path $here $exe
if (-not (Test-Path -LiteralPath $source)) {
    Fail "there is no $exe next to this script; run it in the directory of the archive"
}
$identity = [Security.Principal.WindowsIdentity]::GetCurrent()
$principal = New-Object Security.Principal.WindowsPrincipal($identity)
$isAdministrator = $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
$isForMachine = $isAdministrator -and -not $User

if ($isForMachine) {
    if ($Program -eq '') {
        $Program = Join-Path $env:ProgramFiles $name
    }
    $configDirectory = Join-Path $env:ProgramData $name
} else {
    $own = Join-Path $env:LOCALAPPDATA $name
    if ($Program -eq '') {
        $Program = Join-Path $own 'program'
    }
    $configDirectory = $own
}
$installed = Join-Path $Program $exe
$config = Join-Path $configDirectory 'bridge.toml'
$dataDirectory = Join-Path $configDirectory 'data'
$later = Join-Path $configDirectory 'add-service-as-administrator.txt'
$hasService = (Get-Service -Name $service -ErrorAction SilentlyContinue) -ne $null

if ($Uninstall) {
    if ($hasService -and $isForMachine -and (Test-Path -LiteralPath $installed)) {
        Invoke-Checked $installed @('service', 'uninstall')
    }
    foreach ($file in $installed, "$installed.old", $later) {
        if (Test-Path -LiteralPath $file) {
            Remove-Item -LiteralPath $file -Force
        }
    }
    Say "The bridge was removed. Config and data stay in $configDirectory."
    exit 0
}

New-Item -ItemType Directory -Path $Program -Force | Out-Null
$isRunning = $hasService -and $isForMachine -and ((Get-Service -Name $service).Status -ne 'Stopped')
if ($isRunning) {
    # Running requests may finish.
    Invoke-Checked $installed @('service', 'stop')
}
Copy-Program $source $installed
Invoke-Checked $installed @('--version')
Say "$installed installed: $(& $installed --version)"

New-Item -ItemType Directory -Path $configDirectory -Force | Out-Null
if ($isForMachine) {
    Assert-Owner $configDirectory
    # Before there is anything in it: every user may read what is new in %ProgramData%.
    Protect-Directory $configDirectory
}
if (Test-Path -LiteralPath $config) {
    Say "$config kept"
} else {
    $text = [IO.File]::ReadAllText((Join-Path $here 'bridge.toml'))
    # The directories of this installation in place of the archive's.
    $text = $text.Replace('C:\ProgramData\Integration Bridge', $configDirectory)
    # Without a byte order mark.
    [IO.File]::WriteAllText($config, $text, (New-Object Text.UTF8Encoding($false)))
    Say "$config created"
}

$command = "& '{0}' service install --config '{1}'" -f $installed.Replace("'", "''"), $config.Replace("'", "''")
if (-not $isForMachine) {
    $lines = @(
        '# Run this command as administrator, in PowerShell, to add the service of the machine. It runs a file that the user',
        "# $($identity.Name) may change, so compare that file with the published checksums first, and copy it to a directory",
        '# that only administrators may change.',
        $command
    )
    [IO.File]::WriteAllLines($later, [string[]]$lines, (New-Object Text.UTF8Encoding($false)))
}
if ($isRunning) {
    Invoke-Checked $installed @('service', 'start')
    Say 'service started again'
    exit 0
}

Say
$isPaired = Test-Path -LiteralPath (Join-Path $dataDirectory 'identity.json')
if ($isPaired) {
    Say 'Next:'
} else {
    Say 'The bridge is not paired yet. Next:'
    Say "  1. set relay.url and bridge.name in $config"
    Say "  2. & '$installed' pair --config '$config' --client-id ID"
}
if ($isForMachine) {
    Say "  3. $command"
} else {
    Say '  3. let the bridge run in a window, without a service:'
    Say "       & '$installed' run --config '$config'"
    Say "     or let an administrator add the service of the machine (this command is also in $later):"
    Say "       $command"
}
