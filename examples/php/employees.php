<?php
// Lists the employees of a connection. Needs PHP 8 with its curl extension.
// Usage: php employees.php CONNECTION [PROXY_URL]
declare(strict_types=1);

$connection = $argv[1];
$proxy = $argv[2] ?? 'http://127.0.0.1:8484';

$curl = curl_init();
curl_setopt_array($curl, [
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_HTTPHEADER => ["Pleo-Connection: $connection"],
]);

$query = ['limit' => 10];
do {
    curl_setopt($curl, CURLOPT_URL, "$proxy/v2/employees?" . http_build_query($query));
    $body = curl_exec($curl);
    if ($body === false) {
        fwrite(STDERR, curl_error($curl) . "\n");
        exit(1);
    }
    $document = json_decode($body, true);
    if (($document['code'] ?? null) === 'reauthorization_required') {
        $instructions = $document['connect_url'] ?? $document['message'];
        fwrite(STDERR, "{$document['connection']} must be connected again: $instructions\n");
        exit(2);
    }
    $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
    if ($status !== 200) {
        fwrite(STDERR, "status $status: $body\n");
        exit(1);
    }
    foreach ($document['data'] as $employee) {
        echo "{$employee['firstName']} {$employee['lastName']} <{$employee['email']}>\n";
    }
    $page = $document['pagination'];
    $query['after'] = $page['endCursor'] ?? null;
} while ($page['hasNextPage']);
