package sqlitefile

import (
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// fcntlSetLock sets a lock of the open file description.
const fcntlSetLock = unix.F_OFD_SETLK

// filesystem describes a kind of file system. Neither flag is set for an ordinary local
// one.
type filesystem struct {
	name     string
	remote   bool // its locks or its shared memory cannot be relied on
	volatile bool // it may not survive a restart
}

// filesystemOf maps the magic numbers of statfs(2).
func filesystemOf(magic uint32) filesystem {
	switch magic {
	case unix.NFS_SUPER_MAGIC:
		return filesystem{name: "NFS", remote: true}
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return filesystem{name: "SMB", remote: true}
	case unix.V9FS_MAGIC:
		return filesystem{name: "9p", remote: true}
	case unix.CEPH_SUPER_MAGIC:
		return filesystem{name: "Ceph", remote: true}
	case unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC, unix.NCP_SUPER_MAGIC:
		return filesystem{name: "a network file system", remote: true}
	case 0x01161970: // linux/fs/gfs2
		return filesystem{name: "GFS2", remote: true}
	case unix.OCFS2_SUPER_MAGIC:
		return filesystem{name: "OCFS2", remote: true}
	case 0x0bd00bd0: // lustre_user.h
		return filesystem{name: "Lustre", remote: true}
	case unix.OVERLAYFS_SUPER_MAGIC:
		return filesystem{name: "overlay", volatile: true}
	case unix.TMPFS_MAGIC:
		return filesystem{name: "tmpfs", volatile: true}
	default:
		return filesystem{}
	}
}

// checkFilesystem rejects a directory on a network file system, and warns about one
// that is likely to vanish with the container or the next start of the host.
func checkFilesystem(dir string, log *zap.Logger) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return pathError(err)
	}
	kind := filesystemOf(uint32(stat.Type)) //nolint:gosec // magic numbers have 32 bits; the type differs by platform
	if kind.remote {
		return &credstore.SetupError{
			Err:  fmt.Errorf("%s is on %s, where SQLite's locks cannot be relied on", dir, kind.name),
			Hint: "keep the store on a local disk",
		}
	}
	if kind.volatile {
		log.Warn("the store is on a file system that may not survive a restart; what it holds would be lost",
			zap.String("path", dir), zap.String("filesystem", kind.name))
	}
	return nil
}
