package sqlitefile

import (
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// fcntlSetLock sets a lock of the open file description: F_OFD_SETLK of
// sys/fcntl.h, which package unix does not name.
const fcntlSetLock = 90

// checkFilesystem rejects a directory on a file system that is not local.
func checkFilesystem(dir string, _ *zap.Logger) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return pathError(err)
	}
	if stat.Flags&unix.MNT_LOCAL == 0 {
		return &credstore.SetupError{
			Err:  fmt.Errorf("%s is on %s, where SQLite's locks cannot be relied on", dir, unix.ByteSliceToString(stat.Fstypename[:])),
			Hint: "keep the store on a local disk",
		}
	}
	return nil
}
