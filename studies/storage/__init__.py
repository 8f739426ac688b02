"""The storage of studies: databases that may be away for a while, and the locks that workers share."""
