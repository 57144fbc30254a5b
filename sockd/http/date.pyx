# cython: language_level=3
"""The Date field (RFC 9110 6.6.1) without the interpreter and without the locale."""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

cdef extern from "time.h" nogil:
    ctypedef long time_t
    cdef struct tm:
        int tm_sec
        int tm_min
        int tm_hour
        int tm_mday
        int tm_mon
        int tm_year
        int tm_wday
    tm* gmtime_r(const time_t* seconds, tm* parts)

cdef const char* DAYS = b"SunMonTueWedThuFriSat"
cdef const char* MONTHS = b"JanFebMarAprMayJunJulAugSepOctNovDec"


cdef inline void _two_digits(char* at, int number) noexcept nogil:
    at[0] = <char>(48 + number // 10 % 10)
    at[1] = <char>(48 + number % 10)


cdef void date_line(char* line, int64_t seconds) noexcept nogil:
    """Write the DATE_LINE bytes "Date: Sun, 06 Nov 1994 08:49:37 GMT\\r\\n" for `seconds` since
    the epoch."""
    cdef time_t when = <time_t>seconds
    cdef tm parts
    cdef int year
    gmtime_r(&when, &parts)
    year = parts.tm_year + 1900
    memcpy(line, b"Date: ddd, 00 mmm 0000 00:00:00 GMT\r\n", DATE_LINE)
    memcpy(line + 6, DAYS + 3 * parts.tm_wday, 3)
    _two_digits(line + 11, parts.tm_mday)
    memcpy(line + 14, MONTHS + 3 * parts.tm_mon, 3)
    _two_digits(line + 18, year // 100)
    _two_digits(line + 20, year)
    _two_digits(line + 23, parts.tm_hour)
    _two_digits(line + 26, parts.tm_min)
    _two_digits(line + 29, parts.tm_sec)
